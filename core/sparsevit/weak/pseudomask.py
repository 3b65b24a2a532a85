"""pseudomask"""
from __future__ import annotations
from typing import Literal
from pydantic import Field
from pydantic.dataclasses import dataclass
from sparsevit.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class PseudomaskSettings:
    """How evidence becomes a pseudomask."""

    method: Literal["evidence", "clusters"] = Field(
        default="evidence",
        description="evidence: class maps of the transformer joined with the spectral network; "
        "clusters: attention of the surviving heads, clustered and named (the published recipe).",
    )
    naming: Literal["assignment", "rank"] = Field(
        default="assignment",
        description="How clusters get their class. assignment: optimal assignment on the evidence; rank: the published rule.",
    )
    edges: Literal["adaptive", "superpixels", "none"] = Field(
        default="adaptive",
        description="How borders follow the spectra. adaptive: pixel-adaptive refinement; superpixels: majority vote; none.",
    )
    edge_iterations: int = Field(default=5, ge=1, description="Iterations of the pixel-adaptive refinement.")
    spectral_weight: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the spectral network against the transformer (0–1)."
    )
    ignore_margin: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Pixels whose best two classes are closer than this in probability are left unlabelled.",
    )
    reclassify: bool = Field(
        default=False, description="clusters: classify each painted region again with the rest masked out."
    )
    pseudomask_overlap: float = Field(default=0.5, ge=0, le=0.75, description="Overlap of neighbouring tiles (share of a tile).")
    pseudomask_batch: int = Field(default=32, ge=1, description="Tiles per forward pass.")
