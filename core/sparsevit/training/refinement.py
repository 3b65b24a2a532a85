"""refinement"""
from __future__ import annotations
from pydantic import Field
from pydantic.dataclasses import dataclass
from sparsevit.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class RefinementSettings:
    """Rounds of a U-Net on pseudomasks."""

    encoder: str = Field(default="resnet18", description="Encoder name of segmentation_models_pytorch.")
    rounds: int = Field(default=2, ge=1, description="Rounds; each starts from the masks of the round before.")
    refine_epochs: int = Field(default=20, ge=1, description="Epochs of each round.")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    fraction_weight: float = Field(
        default=1.0, ge=0, description="Weight of the class-fraction loss that ties each tile's prediction to its tags."
    )
    ema_decay: float = Field(default=0.99, ge=0, lt=1, description="Decay per step of the averaged teacher.")
    min_confidence: float = Field(
        default=0.6, ge=0, lt=1, description="Pixels of the next round's masks below this probability are ignored."
    )
    stop_change: float = Field(
        default=0.01, ge=0, lt=1, description="Stop when a smaller share of the mask's pixels changes from round to round."
    )
