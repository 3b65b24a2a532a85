"""The model file: whole, checked against its card, and never pickle."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_models import tiny_architecture, tiny_model
from small_rasters import scheme

import sparsevit
from sparsevit.errors import InputError
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import CARD_KEY, ModelCard, load_model, read_card, save_model

SCHEME = scheme().subset([1, 6, 10]).to_json()


def card_of(model: LandCoverModel, kind: Any = "classifier") -> ModelCard:
    mask = [[True, False], [True, True]]
    return ModelCard(kind, model.architecture, ["B04", "VV"], 10.0, SCHEME, 0.1, mask, "digest", {"macro_f1": 0.5})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = tiny_model()
    save_model(tmp_path / "model.safetensors", model, card_of(model))
    return tmp_path / "model.safetensors"


def refused(path: Path, kind: str | None = None) -> InputError:
    with pytest.raises(InputError) as raised:
        load_model(path, kind, "classifier")
    assert raised.value.parameter == "classifier" and str(path) in raised.value.message
    return raised.value


def test_weights_statistics_and_card_come_back(file: Path) -> None:
    model = tiny_model()
    model.mean.copy_(torch.tensor([100.0, -12.0]))
    model.std.copy_(torch.tensor([30.0, 5.0]))
    save_model(file, model, card_of(model))
    loaded, card = load_model(file, "classifier")
    x = torch.randn(2, 2, 16, 16)
    assert torch.equal(loaded(x), model(x))
    assert card == card_of(model)
    assert (card.heads_kept, card.heads_total) == (3, 4)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


@settings(max_examples=15)
@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_pruned_model_comes_back_pruned(tmp_path_factory: pytest.TempPathFactory, keep: list[bool]) -> None:
    path = tmp_path_factory.mktemp("pruned") / "model.safetensors"
    model = LandCoverModel(tiny_architecture()).eval()
    assert model.vit is not None
    model.vit.prune(list(torch.tensor(keep).split(2)))
    model.architecture = replace(model.architecture, vit=model.vit.config)
    save_model(path, model, card_of(model))
    loaded, card = load_model(path)
    assert card.architecture.vit == model.vit.config
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(loaded(x), model(x))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere.safetensors").message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    assert "not a complete model file" in refused(file).message


def test_a_folder_or_text_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "model.safetensors"
    text.write_text("this is no model, whatever its name says")
    refused(text)
    refused(tmp_path)


def test_the_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    assert "another program" in refused(path).message
    save_file({"weight": torch.zeros(2)}, path)
    assert "another program" in refused(path).message


def test_a_model_of_another_kind_is_refused(file: Path) -> None:
    error = refused(file, "landcover")
    assert "classifier" in error.message and error.hint is not None and "refine" in error.hint
    assert load_model(file, "classifier")[1].kind == "classifier"


def rewrite(file: Path, state: dict[str, torch.Tensor], **changes: Any) -> None:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as old:
        card = json.loads(old.metadata()[CARD_KEY])
    save_file(state, file, metadata={CARD_KEY: json.dumps(card | changes)})


@pytest.mark.parametrize("change", ["left out", "other shape"])
def test_weights_that_do_not_fit_the_card_are_refused(file: Path, change: str) -> None:
    name, state = "spectral.neighbourhood.weight", load_file(file)
    weight = state.pop(name)
    if change == "other shape":
        state[name] = weight[:-1].contiguous()
    rewrite(file, state)
    assert f"does not fit its own card: {name}." in refused(file).message


def test_a_file_of_a_later_format_is_refused(file: Path) -> None:
    rewrite(file, load_file(file), format=99)
    assert "version" in refused(file).message


def test_the_card_is_read_without_the_weights(file: Path) -> None:
    assert read_card(file).bands == ["B04", "VV"]


def test_a_failed_save_keeps_the_former_file(file: Path) -> None:
    former, model = file.read_bytes(), tiny_model()
    with pytest.raises(TypeError):
        save_model(file, model, replace(card_of(model), settings={"unwritable": object()}))
    assert file.read_bytes() == former
    assert list(file.parent.iterdir()) == [file]


def test_nothing_in_the_engine_can_unpickle() -> None:
    """Only foreign weights are read from a pickle, by the loader that builds tensors and plain values alone."""
    forbidden = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    for path in Path(sparsevit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & forbidden, path.name
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in forbidden:
                assert [alias.name for alias in node.names] == ["UnpicklingError"], path.name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                safe = {"weights_only": True} in [{k.arg: getattr(k.value, "value", None)} for k in node.keywords]
                assert owner not in ("np", "numpy") and (owner != "torch" or safe), path.name
            assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle"), path.name
