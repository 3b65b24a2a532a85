"""The transformer with class tokens on the whole road: training, pruning, pseudomask, refinement, heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.windows import Window
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import CODES, CUTTING, SCHEME, TRAINING, Diary, tagged_tiles, tiny_architecture, write_place

from sparsevit.errors import CancelledError, InputError
from sparsevit.geodata.tile_index import read_tile_index
from sparsevit.jobs import get_job
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import load_model, read_card
from sparsevit.models.vit import ViTConfig
from sparsevit.models.weaktr import MAP_METHODS, WeakTr, token_maps, weaktr_config
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import set_peaks, train_classifier
from sparsevit.training.head_budget import BudgetSettings
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.phases import ClassifierSettings
from sparsevit.training.scoring import is_faithful
from sparsevit.weak.pseudomask import LEAST_EVIDENCE, PseudomaskSettings, class_token_evidence, tile_evidence

FABRIC = make_fabric(HardwareSettings(device="cpu", precision="32-true"))
NETWORKS = ("weaktr", "weaktr_faithful")


def with_class_tokens(mode: Any = "repaired") -> LandCoverModel:
    torch.manual_seed(0)
    architecture = tiny_architecture()
    assert isinstance(architecture.vit, ViTConfig)
    model = LandCoverModel(replace(architecture, vit=weaktr_config(architecture.vit, mode))).eval()
    assert isinstance(model.vit, WeakTr)
    torch.nn.init.normal_(model.vit.cam_head.weight, std=0.5)
    return model


def evidence(model: LandCoverModel, tags: list[int], **changes: Any) -> torch.Tensor:
    x = tagged_tiles(3)[0].store.batch(torch.arange(3))
    settings = PseudomaskSettings(**{"method": "fine_cam"} | changes)
    with torch.inference_mode():
        return class_token_evidence(model, x, settings, torch.tensor([tags] * 3))


# --- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_evidence_of_class_tokens_is_shared_out_among_the_classes(weight: float) -> None:
    total = evidence(with_class_tokens(), [-1, -1, -1], spectral_weight=weight).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_class_that_the_tags_exclude_gets_nothing_from_the_maps() -> None:
    out = evidence(with_class_tokens(), [1, 0, 1], spectral_weight=0.0)
    assert (out[:, 1] == 0).all() and (out[:, [0, 2]] > 0).any()
    joined = evidence(with_class_tokens(), [1, 0, 1])
    assert (joined[:, 1] > 0).all()  # spectra may contradict the tags, which leaves a pixel unsure


def test_an_unknown_tag_counts_by_how_probable_it_is() -> None:
    model = with_class_tokens()
    known, unknown = (evidence(model, tags, spectral_weight=0.0) for tags in ([1, 1, 0], [1, -1, 0]))
    shown = known[:, 1] > 0
    assert shown.any() and (unknown[:, 1] < known[:, 1])[shown & (known[:, 1] < 1)].all()
    assert (unknown[:, 2] == 0).all()


def test_maps_count_by_what_is_usual_for_their_class() -> None:
    model = with_class_tokens()
    assert isinstance(model.vit, WeakTr)
    model.vit.peaks.fill_(100.0)  # far above every map: nothing is clipped
    before = evidence(model, [-1, -1, -1], spectral_weight=0.0)
    model.vit.peaks[:, 0] /= 10
    after = evidence(model, [-1, -1, -1], spectral_weight=0.0)
    shown = (before[:, 0] > 0) & (before[:, 0] < 1)
    assert shown.any() and (after[:, 0][shown] > before[:, 0][shown]).all()


@pytest.mark.parametrize("method", MAP_METHODS)
def test_maps_of_a_method_count_by_its_own_peaks(method: str) -> None:
    model = with_class_tokens()
    assert isinstance(model.vit, WeakTr)
    model.vit.peaks.fill_(100.0)
    own = MAP_METHODS.index(method)
    before = evidence(model, [-1, -1, -1], method=method, spectral_weight=0.0)
    model.vit.peaks[1 - own, 0] /= 10
    assert torch.equal(evidence(model, [-1, -1, -1], method=method, spectral_weight=0.0), before)
    model.vit.peaks[own, 0] /= 10
    assert not torch.equal(evidence(model, [-1, -1, -1], method=method, spectral_weight=0.0), before)


def test_maps_and_spectra_are_joined_as_their_weighted_geometric_mean() -> None:
    model = with_class_tokens()
    maps = evidence(model, [1, 0, 1], spectral_weight=0.0)
    with torch.inference_mode():
        assert model.spectral is not None
        spectra = model.spectral(model.normalise(tagged_tiles(3)[0].store.batch(torch.arange(3)))).softmax(1)
    product = maps.clamp_min(LEAST_EVIDENCE) ** 0.7 * spectra**0.3
    expected = product / product.sum(1, keepdim=True)
    torch.testing.assert_close(evidence(model, [1, 0, 1], spectral_weight=0.3), expected)


@pytest.mark.parametrize("method", MAP_METHODS)
def test_evidence_of_the_published_views_mirrors_with_the_tile(method: Any) -> None:
    model, x = with_class_tokens(), tagged_tiles(3)[0].store.batch(torch.arange(3))
    assert isinstance(model.vit, WeakTr)
    model.vit.peaks.fill_(100.0)
    settings = PseudomaskSettings(method=method, spectral_weight=0.0, views="published")
    untagged = torch.full((3, 3), -1)
    with torch.inference_mode():
        shown, mirrored = (class_token_evidence(model, t, settings, untagged) for t in (x, x.flip(3)))
        once = class_token_evidence(model, x, replace(settings, views="one"), untagged)
    torch.testing.assert_close(mirrored, shown.flip(3))
    assert not torch.allclose(once, shown)


@pytest.mark.parametrize("method", MAP_METHODS)
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_every_tile_of_a_batch_has_the_evidence_of_its_own_place(method: Any, weight: float) -> None:
    model, x = with_class_tokens(), tagged_tiles(3)[0].store.batch(torch.arange(3))
    assert isinstance(model.vit, WeakTr)
    torch.nn.init.normal_(model.vit.class_tokens)
    model.vit.peaks.fill_(100.0)
    tags = np.array([[1, 0, 1], [-1, -1, -1], [0, 1, 0]])
    settings = PseudomaskSettings(method=method, spectral_weight=weight)
    cpu = HardwareSettings(device="cpu", precision="32-true")
    evaluate = tile_evidence(model, settings, cpu, lambda w: tags[int(w.row_off) // 8])
    windows = [Window(0, 8 * k, 8, 8) for k in range(3)]
    together, order = evaluate(x, windows), [2, 0, 1]
    for k in range(3):
        torch.testing.assert_close(together[k], evaluate(x[k : k + 1], windows[k : k + 1])[0])
    torch.testing.assert_close(evaluate(x[order], [windows[k] for k in order]), together[order])
    if weight == 0:
        assert torch.equal((together > 0).any(3).any(2), torch.from_numpy(tags != 0))


def test_peaks_are_the_mean_of_the_highest_values_where_a_class_is_tagged() -> None:
    model, (tiles, _) = with_class_tokens(), tagged_tiles(6)
    assert isinstance(model.vit, WeakTr)
    set_peaks(model, model.vit, tiles, FABRIC, batch=4)
    with torch.inference_mode():
        output = model.vit(model.normalise(tiles.store.batch(torch.arange(6))))
    for m, method in enumerate(MAP_METHODS):
        highest = token_maps(output, method).amax((2, 3))
        for k in range(3):
            expected = highest[tiles.tags[:, k] == 1, k].mean()
            assert model.vit.peaks[m, k] == pytest.approx(float(expected), rel=1e-5)


def test_where_class_tokens_look_is_a_share_of_their_attention() -> None:
    model = with_class_tokens()
    assert isinstance(model.vit, WeakTr)
    looks = model.vit.class_attention(torch.randn(2, 3, 8, 8))
    assert looks.shape == (2, 4, 4, 4) and (looks > 0).all() and (looks.sum((2, 3)) < 1).all()
    mask = [torch.tensor([True, False]), torch.tensor([False, True])]
    model.vit.set_head_mask(mask)
    x = torch.randn(2, 3, 8, 8)
    masked = model.vit.class_attention(x)
    model.vit.prune(mask)
    assert model.vit.heads == [1, 1]
    torch.testing.assert_close(model.vit.class_attention(x), masked[:, [0, 3]])


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["repaired", "faithful"])
def test_tags_of_a_separable_set_are_learned(mode: Any) -> None:
    tiles, _ = tagged_tiles(64)
    held_out, _ = tagged_tiles(32, seed=1)
    architecture = tiny_architecture()
    assert isinstance(architecture.vit, ViTConfig)
    architecture = replace(architecture, vit=weaktr_config(architecture.vit, mode))
    settings = ClassifierSettings(epochs=25, gate_epochs=5, finetune_epochs=5, spectral_epochs=1)
    budget = BudgetSettings(heads_kept=0.5, controls=False)
    training = TrainingSettings(batch=8, learning_rate=4e-3)
    statistics = (torch.zeros(3), torch.ones(3))
    done = train_classifier(architecture, statistics, tiles, held_out, settings, budget, training, FABRIC, Reporter())
    assert done.scores is not None and done.scores.mean_ap > 0.9
    assert isinstance(done.model.vit, WeakTr) and sum(done.model.vit.heads) == 2
    assert is_faithful(done.model) == (mode == "faithful")
    assert (done.model.vit.peaks != 1).all()


@pytest.mark.parametrize("mode", ["repaired", "faithful"])
def test_training_with_class_tokens_goes_on_where_it_was_stopped(mode: Any, tmp_path: Path) -> None:
    tiles, _ = tagged_tiles(16)
    architecture = tiny_architecture()
    assert isinstance(architecture.vit, ViTConfig)
    architecture = replace(architecture, vit=weaktr_config(architecture.vit, mode))
    settings = ClassifierSettings(epochs=2, gate_epochs=2, finetune_epochs=2, spectral_epochs=1)
    budget, statistics = BudgetSettings(heads_kept=0.5, controls=False), (torch.zeros(3), torch.ones(3))

    def trained(reporter: Reporter, folder: Path | None) -> LandCoverModel:
        training = TrainingSettings(batch=8, learning_rate=3e-3)
        return train_classifier(
            architecture, statistics, tiles, None, settings, budget, training, FABRIC, reporter, folder
        ).model

    for share in (0.3, 0.7, 0.8, 0.85):  # with all heads, while they close, when half of them are left, and later
        with pytest.raises(CancelledError):
            trained(Diary(stop_at=share), tmp_path)
    expected, resumed = trained(Reporter(), None).state_dict(), trained(Reporter(), tmp_path).state_dict()
    assert list(resumed) == list(expected)
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())


# --- the road ---------------------------------------------------------------------------------------------------------


def do(job: str, **params: Any) -> Any:
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in params.items()}
    return get_job(job).execute(plain | {"device": "cpu"}, Reporter())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tagged scene, and a classifier of each kind."""
    folder = tmp_path_factory.mktemp("weaktr")
    scene, classes = write_place(folder)
    files = {"scene": scene, "tiles": folder / "tiles.gpkg"}
    get_job("tiles").execute({"scene": [str(scene)], "output": str(files["tiles"]), **CUTTING}, Reporter())
    tag = {"tiles": str(files["tiles"]), "scheme": str(SCHEME), "source": "raster", "raster": str(classes)}
    get_job("tag").execute(tag, Reporter())
    for network in (*NETWORKS, "gated"):
        files[network] = folder / f"{network}.safetensors"
        do("train", tiles=files["tiles"], output=files[network], network=network, **TRAINING)
    return files


@pytest.mark.parametrize("network", NETWORKS)
def test_the_file_of_a_model_with_class_tokens_holds_all_of_it(place: dict[str, Path], network: str) -> None:
    model, card = load_model(place[network], "classifier")
    assert isinstance(model.vit, WeakTr) and card.heads_kept == sum(model.vit.heads) == 7
    assert card.architecture == model.architecture and is_faithful(model) == network.endswith("faithful")
    assert (model.vit.peaks != 1).any()


@pytest.mark.parametrize(("network", "other"), [NETWORKS, NETWORKS[::-1]])
def test_weights_of_the_other_kind_of_network_are_refused(
    place: dict[str, Path], tmp_path: Path, network: str, other: str
) -> None:
    with safe_open(place[other], framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(place[network]), tmp_path / "mixed.safetensors", metadata)
    with pytest.raises(InputError, match="does not fit its own card"):
        load_model(tmp_path / "mixed.safetensors")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", ["evidence", "class_tokens", "fine_cam"])
def test_pseudomasks_of_class_tokens_hold_only_tagged_classes(
    place: dict[str, Path], tmp_path: Path, network: str, method: str
) -> None:
    target, heads = tmp_path / "mask.tif", tmp_path / "heads.tif"
    files = {"model": place[network], "tiles": place["tiles"], "output": target, "heads": heads}
    result = do("pseudomask", **files, method=method, ignore_margin=0.0)
    index = read_tile_index(place["tiles"])
    with rasterio.open(target) as mask, rasterio.open(heads) as layers:
        for window, tags in zip(index.windows(), index.tags(), strict=True):
            present = {code for code, tag in zip(CODES, tags, strict=True) if tag == 1}
            assert set(np.unique(mask.read(1, window=window))) <= {*present, 255}
        assert result.labelled_share > 0.5
        assert layers.count == read_card(place[network]).heads_kept and (layers.read() >= 0).all()


def test_a_model_with_class_tokens_is_refined_and_maps(place: dict[str, Path], tmp_path: Path) -> None:
    files = {"tiles": place["tiles"], "classifier": place["weaktr"], "pseudomask": tmp_path / "mask.tif"}
    do("pseudomask", model=place["weaktr"], tiles=place["tiles"], output=files["pseudomask"], method="fine_cam")
    model = tmp_path / "m.safetensors"
    do("refine", **files, output=model, rounds=1, refine_epochs=1)
    do("predict", model=model, scene=[str(place["scene"])], output=tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as mapped:
        assert set(np.unique(mapped.read(1))) <= set(CODES)


def test_what_needs_the_other_transformer_says_so(place: dict[str, Path], tmp_path: Path) -> None:
    for model, method, network in (("weaktr", "clusters", "gated"), ("gated", "fine_cam", "weaktr")):
        files = {"model": place[model], "tiles": place["tiles"], "output": tmp_path / "mask.tif"}
        with pytest.raises(InputError, match=f"'{network}'"):
            do("pseudomask", **files, method=method)
    do("pseudomask", model=place["weaktr"], tiles=place["tiles"], output=tmp_path / "mask.tif")
    files = {"tiles": place["tiles"], "classifier": place["weaktr"], "pseudomask": tmp_path / "mask.tif"}
    with pytest.raises(InputError, match="the network 'gated'"):
        do("refine", **files, output=tmp_path / "m.safetensors", decoder="segmenter")
    assert not (tmp_path / "m.safetensors").exists()
