"""The parameters that say how to work, in the groups and with the defaults of the engine's settings."""

from __future__ import annotations

from ..text import tr
from . import fields
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
                    "A class counts as present when it covers at least this share (0–1) of a tile's valid pixels. "
                    "The training relies on it, so set it to what your tags mean."
                ),
                0.1,
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


def heads():
    """How many attention heads survive."""
    return [
        share(
            "HEADS_KEPT",
            tr("Share of heads kept"),
            tr(
                "Share of the attention heads (0–1) that survive the training. Fewer heads are easier to read; 1 keeps "
                "all."
            ),
            0.3,
        ),
        *advanced(
            [
                switch(
                    "CONTROLS",
                    tr("Train controls"),
                    tr(
                        "Also train with random heads removed and with all heads kept, to show what the choice of "
                        "heads is worth. Lengthens the training by more than half, and changes no map."
                    ),
                    True,
                ),
            ]
        ),
    ]


def classifier():
    """The gated vision transformer and the phases of its training."""
    return [
        choice(
            "NETWORK",
            tr("Transformer"),
            tr(
                "gated: one class token and class maps of the patches. weaktr: one token per class and fused attention "
                "(WeakTr, repaired); weaktr_faithful: the same as published, to compare."
            ),
            ["gated", "weaktr", "weaktr_faithful"],
            "gated",
        ),
        choice(
            "PRESET",
            tr("Size of the transformer"),
            tr(
                "tiny (width 128, 6 blocks of 4 heads) trains in minutes on a CPU; small (256, 8 × 8) and base (768, "
                "12 × 12) want a GPU; reference is the published model (1024, 12 × 16, patches of 14 pixels)."
            ),
            ["tiny", "small", "base", "reference"],
            "tiny",
        ),
        number(
            "EPOCHS",
            tr("Epochs"),
            tr("Passes over all training tiles with all heads. More is slower, and better up to a point."),
            40,
            1,
        ),
        *advanced(
            [
                fields.file(
                    "ENCODER_WEIGHTS",
                    tr("Pretrained encoder"),
                    tr(
                        "Weights of a pretrained vision transformer by timm's names (.safetensors, .pth), such as "
                        "those of SSL4EO-S12. It replaces the size chosen above; patches, position grid and bands are "
                        "fitted to the tiles. Leave empty to start from random weights."
                    ),
                    tr("Weights (*.safetensors *.pth)"),
                    optional=True,
                ),
                fields.text(
                    "ENCODER_BANDS",
                    tr("Bands of the pretrained encoder"),
                    tr(
                        "Names of its input bands in order, separated by commas, spelt as those of the scene. Leave "
                        "empty if it has 2 (VV, VH), 3 (B04, B03, B02), 12 (Sentinel-2 L2A) or 13 (L1C)."
                    ),
                ),
                number(
                    "PATCH_SIZE_M",
                    tr("Patch size (m)"),
                    tr("Side in metres of the patches that the transformer looks at. Ignored by the preset reference."),
                    40.0,
                    0.0,
                ),
                number(
                    "GATE_EPOCHS",
                    tr("Gate epochs"),
                    tr("Epochs in which the heads close down to the share asked for."),
                    8,
                    1,
                ),
                number(
                    "FINETUNE_EPOCHS", tr("Fine-tuning epochs"), tr("Epochs of the surviving heads after that."), 16, 0
                ),
                number(
                    "GATE_LEARNING_RATE",
                    tr("Learning rate of the gates"),
                    tr("Largest step of the gates, which learn faster than the weights."),
                    0.05,
                    0.0,
                ),
                number(
                    "GATE_PENALTY",
                    tr("Gate penalty"),
                    tr("Weight of the mean probability that a gate is open (Louizos et al. 2018)."),
                    0.1,
                    0.0,
                ),
                number(
                    "DISTILLATION",
                    tr("Distillation"),
                    tr("Weight of staying close to the transformer with all heads while heads close."),
                    1.0,
                    0.0,
                ),
                number(
                    "SPECTRAL_EPOCHS",
                    tr("Spectral epochs"),
                    tr("Epochs of the small per-pixel network that adds colour to the transformer's evidence."),
                    240,
                    1,
                ),
            ]
        ),
    ]


def training():
    """How the networks are trained."""
    return advanced(
        [
            choice("OPTIMISER", tr("Optimiser"), tr("Rule of the weight updates."), ["adamw", "adam", "sgd"], "adamw"),
            number("LEARNING_RATE", tr("Learning rate"), tr("Largest step of the weight updates."), 1e-3, 0.0),
            number(
                "WEIGHT_DECAY",
                tr("Weight decay"),
                tr("Pull of the weights towards zero; never on gates, norms and biases."),
                0.05,
                0.0,
            ),
            choice(
                "SCHEDULE",
                tr("Learning rate schedule"),
                tr(
                    "cosine: rises during the warm-up, then falls to zero along half a cosine. constant: stays after "
                    "the warm-up."
                ),
                ["cosine", "constant"],
                "cosine",
            ),
            share("WARMUP", tr("Warm-up"), tr("Share of all steps (0–1) in which the learning rate rises."), 0.1),
            number(
                "BATCH",
                tr("Training batch"),
                tr("Tiles per step and device. Halve it when memory runs out."),
                16,
                1,
            ),
            number(
                "ACCUMULATION",
                tr("Accumulated steps"),
                tr("Steps whose gradients are summed before the weights change: a large batch in little memory."),
                1,
                1,
            ),
            number(
                "DEVICES",
                tr("Devices"),
                tr("Devices that share each training batch: GPUs of this computer, or processes on its CPU."),
                1,
                1,
            ),
            number(
                "PATIENCE",
                tr("Patience (epochs)"),
                tr("Stop the first phase after so many epochs without a better validation loss; 0 never stops."),
                0,
                0,
            ),
            number("SEED", tr("Seed"), tr("The same seed, data and machine give the same model."), 0, 0),
        ]
    )


def pseudomask():
    """How evidence becomes a pseudomask."""
    return advanced(
        [
            choice(
                "METHOD",
                tr("Method"),
                tr(
                    "evidence: class maps of the transformer joined with the spectral network. "
                    "clusters: attention of the surviving heads, clustered and named, as published. "
                    "Only for the transformer weaktr: class_tokens, where its class tokens look, joined with the "
                    "spectral network; fine_cam, the same spread along the affinity of patches."
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
                tr("0: only the transformer; 1: only the per-pixel spectral network."),
                0.5,
            ),
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


def edges():
    """How the borders of a map follow the spectra."""
    return advanced(
        [
            choice(
                "EDGES",
                tr("Edges"),
                tr(
                    "How borders follow the image. adaptive: neighbours of like spectra agree. "
                    "superpixels: majority in patches of like spectra. none: as they are."
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


def refinement():
    """Rounds of a segmentation network on the pseudomasks."""
    return [
        number(
            "ROUNDS", tr("Rounds"), tr("Rounds of refinement; each learns from the masks of the round before."), 2, 1
        ),
        number(
            "REFINE_EPOCHS",
            tr("Epochs of refinement"),
            tr("Passes over all training tiles in the first round; later rounds go on from it for half as many."),
            40,
            1,
        ),
        *advanced(
            [
                choice(
                    "DECODER",
                    tr("Segmentation network"),
                    tr(
                        "unet: a U-Net that sees every pixel. segmenter: a mask transformer on the classifier's "
                        "transformer; it sees no finer than a patch."
                    ),
                    ["unet", "segmenter"],
                    "unet",
                ),
                switch(
                    "CLIP",
                    tr("Clip gradients of improbable labels"),
                    tr(
                        "Pixels whose loss on the pseudomask is far above that of their surroundings, probably its "
                        "errors, teach nothing."
                    ),
                    False,
                ),
                fields.text(
                    "ENCODER",
                    tr("Encoder"),
                    tr("Encoder of the U-Net: any name of segmentation_models_pytorch, such as resnet18 or resnet34."),
                    "resnet18",
                ),
                share(
                    "LABEL_SMOOTHING",
                    tr("Label smoothing"),
                    tr("How far the pseudomasks are distrusted (0–1)."),
                    0.05,
                ),
                number(
                    "MASK_WEIGHT",
                    tr("Weight of the masks"),
                    tr("Weight of the loss on the masks, in which rare classes count more."),
                    0.3,
                    0.0,
                ),
                number(
                    "FRACTION_WEIGHT",
                    tr("Weight of the tags"),
                    tr("Weight of the loss that keeps the class shares of each tile consistent with its tags."),
                    1.0,
                    0.0,
                ),
                share("EMA_DECAY", tr("Teacher decay"), tr("Decay per step of the averaged teacher (0–1)."), 0.98),
                share(
                    "MIN_CONFIDENCE",
                    tr("Smallest confidence"),
                    tr("Pixels of the next round's masks below this probability (0–1) are ignored."),
                    0.75,
                ),
                share(
                    "STOP_CHANGE",
                    tr("Stop at change"),
                    tr("Stop when a smaller share of the masks' pixels (0–1) changes in a round."),
                    0.01,
                ),
            ]
        ),
    ]


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
                tr("Number format. auto takes bf16-mixed where the device computes it natively, else 32-true."),
                ["auto", "32-true", "bf16-mixed", "16-mixed"],
                "auto",
            ),
        ]
    )
