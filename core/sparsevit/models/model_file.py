"""The model file: safetensors weights with a JSON card in the header. Never pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sparsevit import __version__
from sparsevit.errors import InputError
from sparsevit.models.landcover import Architecture, LandCoverModel
from sparsevit.models.vit import ViTConfig
from sparsevit.models.weaktr import WeakTrConfig
from sparsevit.outputs import whole_file

CARD_KEY = "sparsevit"
FORMAT = 1
GSD_TOLERANCE = 0.1
"""Share by which the ground sampling distance may differ from that of the training."""


@dataclass(frozen=True)
class ModelCard:
    """What a model is, so that it can be checked against its input before any work starts.

    Attributes:
        kind: `classifier` (from tags) or `landcover` (refined).
        architecture: Networks and weights.
        bands: Band names in input order.
        gsd: Ground sampling distance it was trained at (m).
        scheme: Class scheme as JSON text; the order is that of the outputs.
        presence_threshold: Share of a tile from which a class counted as present.
        head_mask: For each block, which of its original heads survived.
        training_data: Digest of tiles, tags and bands it was trained on.
        metrics: Named results on held-out blocks.
        settings: The settings of the training.
        head_gates: P(open) of the original heads when the budget was met, 0–1; empty if no head had to close.
        cautions: What the training tags cannot teach, such as two classes that always occur together; sentences.
        licence: Licence of the weights: the user's own.
        engine_version: Version of the engine that wrote it.
    """

    kind: Literal["classifier", "landcover"]
    architecture: Architecture
    bands: list[str]
    gsd: float
    scheme: str
    presence_threshold: float
    head_mask: list[list[bool]]
    training_data: str
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    head_gates: list[list[float]] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    licence: str = "set by the owner of the training data"
    engine_version: str = __version__

    @property
    def heads_kept(self) -> int:
        """Number of surviving heads."""
        return sum(map(sum, self.head_mask))

    @property
    def heads_total(self) -> int:
        """Number of heads before pruning."""
        return sum(map(len, self.head_mask))

    def check_gsd(self, gsd: float, owner: str, parameter: str) -> None:
        """Refuse pixels that are not as large as those of the training.

        Args:
            gsd: Ground sampling distance (m).
            owner: What has these pixels, to begin a sentence.
            parameter: Job field that an error names.

        Raises:
            InputError: They differ by more than `GSD_TOLERANCE`.
        """
        if abs(gsd / self.gsd - 1) > GSD_TOLERANCE:
            raise InputError(
                f"{owner} has pixels of {gsd:g} m, the model of {self.gsd:g} m.",
                parameter,
                "Resample the scene, or train a model at its resolution.",
            )


def save_model(path: Path, model: LandCoverModel, card: ModelCard) -> None:
    """Write a model, whole or not at all."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    card = replace(card, architecture=model.architecture)
    with whole_file(path) as partial:
        save_file(state, partial, metadata={CARD_KEY: json.dumps({"format": FORMAT, **asdict(card)})})


def read_card(path: Path, parameter: str = "model") -> ModelCard:
    """Read the card of a model file without its weights.

    Raises:
        InputError: The file is missing, truncated, or not a model of this engine.
    """
    if not path.is_file():
        raise InputError(f"The model {path} does not exist.", parameter, "Check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(CARD_KEY)
    except (SafetensorError, OSError) as err:
        raise InputError(
            f"{path} is not a complete model file ({err}).", parameter, "It may be truncated: copy or train it again."
        ) from err
    if text is None:
        raise InputError(
            f"{path} is a safetensors file of another program.", parameter, "Choose one written by 'train' or 'refine'."
        )
    data = json.loads(text)
    if data.pop("format") != FORMAT:
        raise InputError(f"{path} was written by another version of the engine.", parameter, "Update the engine.")
    a = data.pop("architecture")
    for name in ("vit", "segmenter"):
        a[name] = _transformer_config(a[name]) if a.get(name) else None
    return ModelCard(architecture=Architecture(**a), **data)


def _transformer_config(data: dict[str, Any]) -> Any:
    """A configuration from JSON, gated or with class tokens."""
    if "vit" in data:
        return WeakTrConfig(**data | {"vit": _transformer_config(data["vit"])})
    return ViTConfig(**data | {"heads": tuple(data["heads"])})


def load_model(path: Path, kind: str | None = None, parameter: str = "model") -> tuple[LandCoverModel, ModelCard]:
    """Load a model in evaluation mode.

    Args:
        path: Model file.
        kind: The kind that is needed; any if left out.
        parameter: Name of the job field, for error messages.

    Raises:
        InputError: The file is missing, damaged, or of another kind.
    """
    card = read_card(path, parameter)
    if kind is not None and card.kind != kind:
        raise InputError(
            f"{path} is a {card.kind} model, but a {kind} model is needed.",
            parameter,
            "Choose a model written by " + ("'train'." if kind == "classifier" else "'refine'."),
        )
    model = LandCoverModel(card.architecture)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    shapes, own = ({name: value.shape for name, value in s.items()} for s in (state, model.state_dict()))
    if wrong := sorted({name for name, _ in shapes.items() ^ own.items()}):
        raise InputError(f"{path} does not fit its own card: {', '.join(wrong[:5])}.", parameter, "Train it again.")
    model.load_state_dict(state)
    return model.eval().requires_grad_(False), card


def parameter_count(model: torch.nn.Module) -> int:
    """Number of learnable values."""
    return sum(p.numel() for p in model.parameters())
