"""What a tag means."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from sparsevit.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class TagSettings:
    """How image-level labels are made, and what the classifier may assume about them."""

    presence_threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="A class is tagged present when it covers at least this share of a tile's valid pixels; the "
        "training loss relies on it. If left out: 0.1 (Schmitt & Wu 2021) for tags read from a raster or polygons; for "
        "those that people named (text, fields, points) the training learns it from the tags.",
    )
    complete: bool = Field(
        default=True,
        description="The classes listed for a tile are all of them: the others are absent. "
        "If not, the others are unknown (text, points and polygons that do not fill the tile).",
    )
    min_labelled: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Raster source: a tile whose labelled pixels cover less than this share of it stays unknown (0–1).",
    )
