"""The parameters that say how to work, in the groups and with the defaults of the engine's settings."""

from __future__ import annotations

from ..text import tr
from .fields import advanced, choice, number, share, switch


def tiling():
    """How a scene is cut into tiles and the tiles are split."""
    return [
        number(
            "TILE_SIZE_M",
            tr("Tile size (m)"),
            tr(
                "Side of the square tiles in metres. A tag says what occurs in one tile; a smaller tile is a sharper "
                "tag."
            ),
            640.0,
            0.0,
        ),
        *advanced(
            [
                number("OVERLAP_M", tr("Tile overlap (m)"), tr("Overlap of neighbouring tiles in metres."), 0.0, 0.0),
                share(
                    "MIN_VALID",
                    tr("Smallest share of valid pixels"),
                    tr("Tiles with a smaller share of valid pixels (0–1) are left out."),
                    0.5,
                ),
                number(
                    "BLOCK_SIZE_M",
                    tr("Block size (m)"),
                    tr(
                        "Side in metres of the blocks that go to training or validation as a whole. Neighbouring tiles "
                        "resemble each other: blocks keep the validation honest."
                    ),
                    2560.0,
                    0.0,
                ),
                number(
                    "GAP_M",
                    tr("Gap between splits (m)"),
                    tr("Tiles of two splits are at least this far apart, in metres; tiles in between are not used."),
                    100.0,
                    0.0,
                ),
                share(
                    "VALIDATION_SHARE",
                    tr("Validation share"),
                    tr("Share of the blocks (0–1) that is held out to judge the training."),
                    0.2,
                ),
                share(
                    "TEST_SHARE",
                    tr("Test share"),
                    tr("Share of the blocks (0–1) that is held out for the final accuracy."),
                    0.0,
                ),
                number("SPLIT_SEED", tr("Seed of the split"), tr("Another whole number draws other blocks."), 0, 0),
            ]
        ),
    ]


def tagging():
    """What a tag means."""
    return advanced(
        [
            share(
                "PRESENCE_THRESHOLD",
                tr("Presence threshold"),
                tr(
                    "A class counts as present when it covers at least this share (0–1) of a tile's valid pixels; the "
                    "training relies on it. If left empty: 0.1 for tags read from a raster or polygons; for those that "
                    "people named (texts, fields, points) the training learns from which share on they did."
                ),
                None,
            ),
            switch(
                "COMPLETE",
                tr("Tags are complete"),
                tr(
                    "Classes that are not listed are absent. Switch off if they are unknown, for example when points "
                    "or scattered polygons do not fill the tiles."
                ),
                True,
            ),
            share(
                "MIN_LABELLED",
                tr("Smallest labelled share"),
                tr("Only for a tag raster: a tile of which it labels a smaller share (0–1) stays without tags."),
                0.5,
            ),
        ]
    )


def doubts():
    """What becomes of tags that look wrong."""
    return switch(
        "REVIEW",
        tr("Review tags"),
        tr(
            "Look for tags that are probably wrong before anything is learned, and learn nothing from them. "
            "The fields review_wrong and review_doubts of the tiles show which they are, so that you can check them."
        ),
        True,
    )


def pseudomask():
    """How evidence becomes a pseudomask."""
    return advanced(
        [
            *_evidence(),
            share(
                "IGNORE_MARGIN",
                tr("Ignore margin"),
                tr("Pixels whose best two classes are closer than this in probability (0–1) are left without a class."),
                0.4,
            ),
            switch(
                "RECLASSIFY",
                tr("Classify regions again"),
                tr("Only for clusters: classify each painted region again with the rest masked out. Slow."),
                False,
            ),
            share(
                "PSEUDOMASK_OVERLAP",
                tr("Pseudomask overlap"),
                tr("Overlap of neighbouring tiles as a share of a tile (0–0.75)."),
                0.5,
                0.75,
            ),
            number("PSEUDOMASK_BATCH", tr("Pseudomask batch"), tr("Tiles per forward pass."), 32, 1),
        ]
    )


def _evidence():
    """What says where classes are."""
    return [
        choice(
            "METHOD",
            tr("Method"),
            tr(
                "evidence: class maps of the transformer joined with the spectral network. "
                "clusters: attention of the surviving heads, clustered and named, as published. "
                "Only for the transformer weaktr: class_tokens, where its class tokens look, joined with the "
                "spectral network; fine_cam, the same spread along the affinity of patches. The segmentation "
                "network learns from what is painted; in the final map it is joined with the evidence, by "
                "whatever method it learned, and the evidence is the map where the guard refuses it."
            ),
            ["evidence", "clusters", "class_tokens", "fine_cam"],
            "evidence",
        ),
        choice(
            "NAMING",
            tr("Naming of clusters"),
            tr("Only for clusters. assignment: the best match with the evidence. rank: the published rule."),
            ["assignment", "rank"],
            "assignment",
        ),
        share(
            "SPECTRAL_WEIGHT",
            tr("Weight of the spectral network"),
            tr(
                "In the pseudomask. 0: only the transformer; 1: only the per-pixel spectral network. In the "
                "evidence that the final map is joined with, both count the same."
            ),
            0.5,
        ),
        choice(
            "VIEWS",
            tr("Views of a tile"),
            tr(
                "Only for class_tokens and fine_cam. one: each tile is looked at once. published: also at 1.2 "
                "times its size, and each with its mirror image, averaged; four times as slow."
            ),
            ["one", "published"],
            "one",
        ),
    ]


def edges():
    """How the borders of a map follow the spectra."""
    return advanced(
        [
            choice(
                "EDGES",
                tr("Edges"),
                tr(
                    "How borders follow the image. adaptive: neighbours of like spectra agree. "
                    "superpixels: patches of like spectra take their mean. none: as they are."
                ),
                ["adaptive", "superpixels", "none"],
                "adaptive",
            ),
            number(
                "EDGE_SHARPNESS",
                tr("Edge sharpness"),
                tr("Only for adaptive: the spectral difference that makes an edge, in standard deviations."),
                0.8,
                0.0,
            ),
        ]
    )


def mapping():
    """How a scene is mapped."""
    return advanced(
        [
            share(
                "OVERLAP",
                tr("Map overlap"),
                tr("Overlap of neighbouring tiles as a share of a tile (0–0.75). More is smoother and slower."),
                0.5,
                0.75,
            ),
            number(
                "PREDICT_BATCH",
                tr("Map batch"),
                tr("Tiles per forward pass; halved by itself when the device runs out of memory."),
                32,
                1,
            ),
            switch("COG", tr("Cloud-optimised GeoTIFF"), tr("Write Cloud-Optimised GeoTIFFs."), False),
        ]
    )


def hardware():
    """Where the networks run."""
    return advanced(
        [
            choice(
                "DEVICE",
                tr("Device"),
                tr(
                    "auto takes an NVIDIA GPU, else Apple's, else the CPU. “Check engine” lists what this computer has."
                ),
                ["auto", "cpu", "cuda", "mps"],
                "auto",
            ),
            choice(
                "PRECISION",
                tr("Precision"),
                tr("Number format. auto takes bf16-mixed where the device has matrix units for it, else 32-true."),
                ["auto", "32-true", "bf16-mixed", "16-mixed"],
                "auto",
            ),
        ]
    )
