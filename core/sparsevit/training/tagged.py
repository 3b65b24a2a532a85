"""From a tagged tile index to training and validation tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sparsevit.errors import InputError
from sparsevit.geodata.legend import ClassScheme
from sparsevit.geodata.tile_index import PRESENT, USUAL_THRESHOLD, TileIndex
from sparsevit.reporting import Reporter
from sparsevit.training.tiles import TaggedTiles, load_tiles


@dataclass(frozen=True)
class TrainingData:
    """Tagged tiles by split, and what they are.

    Attributes:
        train: Tiles to learn from.
        train_index: The same tiles in the index.
        validation: Held-out tiles; none if the index holds none out.
        validation_index: The same tiles in the index.
        scheme: Classes of the tags.
        bands: Band names in order.
        side: Side of a tile (pixels).
        gsd: Ground sampling distance (m).
    """

    train: TaggedTiles
    train_index: TileIndex
    validation: TaggedTiles | None
    validation_index: TileIndex | None
    scheme: ClassScheme
    bands: list[str]
    side: int
    gsd: float

    def with_threshold(self, presence_threshold: float) -> TrainingData:
        """The same tiles, with the presence threshold that a classifier learned from them."""
        validation = self.validation and self.validation.with_threshold(presence_threshold)
        return replace(self, train=self.train.with_threshold(presence_threshold), validation=validation)


def check_bands(index: TileIndex, bands: list[str]) -> None:
    """Refuse a choice of bands that the rasters of an index do not have.

    Raises:
        InputError: Names the bands that are missing, and those that are there.
    """
    missing = [band for band in bands if band not in index.band_names]
    if missing:
        there = ", ".join(index.band_names)
        raise InputError(f"The tile index has no band {', '.join(missing)}.", "bands", f"Choose among {there}.")


def load_training_data(
    index: TileIndex, scene: list[Path], classes: list[str], bands: list[str], reporter: Reporter
) -> TrainingData:
    """Read the tagged tiles of the training and validation splits.

    Args:
        index: Tagged tile index.
        scene: Rasters to read instead of those that the index names.
        classes: Only these classes (names); all tagged ones if empty.
        bands: Only these bands (names); all if empty.
        reporter: Progress.

    Raises:
        InputError: There are no tags, no tagged training tiles, one class alone, or a class that no training tile has.
    """
    tags = index.tags()
    scheme, threshold = index.scheme, index.presence_threshold
    assert scheme is not None
    if classes:
        chosen = scheme.subset(list(classes), "classes")
        tags = tags[:, [scheme.codes.index(c) for c in chosen.codes]]
        scheme = chosen
    if len(scheme.classes) < 2:
        raise InputError(
            f"One class, {scheme.names[0]}, is no map: every pixel would be of it.",
            "classes",
            "Keep or tag at least one class for what is something else.",
        )
    known = (tags >= 0).any(axis=1)
    splits = index.frame["split"].to_numpy()
    masks = {name: known & (splits == name) for name in ("train", "validation")}
    if not masks["train"].any():
        raise InputError(
            "No tile of the training split is tagged.", "tiles", "Tag tiles with 'tag', or lower 'validation_share'."
        )
    _check_present(tags[masks["train"]], scheme)
    names = bands or index.band_names
    tagged: dict[str, TaggedTiles] = {}
    for k, (name, mask) in enumerate(masks.items()):
        if mask.any():
            part = reporter.part(k / 2, (k + 1) / 2)
            store = load_tiles(index.choose(mask), names, part, scene)
            begin, is_known = threshold or USUAL_THRESHOLD, threshold is not None
            tagged[name] = TaggedTiles(store, torch.from_numpy(tags[mask]), begin, is_known)
    if "validation" not in tagged:
        reporter.log(
            "No tagged tile is held out: the classifier is not assessed and refinement is not guarded.", "warning"
        )
    side = tagged["train"].store.values.shape[-1]
    held_out = index.choose(masks["validation"]) if "validation" in tagged else None
    return TrainingData(
        tagged["train"],
        index.choose(masks["train"]),
        tagged.get("validation"),
        held_out,
        scheme,
        names,
        side,
        index.gsd,
    )


def _check_present(tags: npt.NDArray[np.int8], scheme: ClassScheme) -> None:
    missing = [c.name for c, column in zip(scheme.classes, tags.T, strict=True) if not (column == PRESENT).any()]
    if missing:
        raise InputError(
            f"No tile of the training split has the class {', '.join(missing)}.",
            "classes",
            "Tag tiles where it occurs, leave the class out, or change 'split_seed'.",
        )
