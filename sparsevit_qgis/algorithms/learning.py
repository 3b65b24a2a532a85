"""The parameters of everything that is trained, with the defaults of the engine's settings."""

from __future__ import annotations

from ..text import tr
from . import fields
from .fields import advanced, choice, number, share, switch


def heads():
    """How many attention heads survive."""
    return [
        share(
            "HEADS_KEPT",
            tr("Share of heads kept (0: as few as will do)"),
            tr(
                "Share of the attention heads (0–1) that survive the training. 0 finds by short trials how few cost "
                "next to nothing on held-out tags; 1 keeps all."
            ),
            0.0,
        ),
        *advanced(
            [
                share(
                    "HEADS_COST",
                    tr("Cost of fewer heads"),
                    tr(
                        "Macro-F1 of held-out tags (0–1) that fewer heads may cost when the share of heads kept is 0 "
                        "and their number is found."
                    ),
                    0.005,
                ),
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
                "(WeakTr, repaired); weaktr_faithful: the same as published, to compare. Where the class tokens and "
                "fused attention look is used by the methods class_tokens and fine_cam of the pseudomask."
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
        *advanced([*_encoder(), *_phases()]),
    ]


def _encoder():
    """Where the transformer starts from, and what it looks at."""
    return [
        fields.file(
            "ENCODER_WEIGHTS",
            tr("Pretrained encoder"),
            tr(
                "Weights of a pretrained vision transformer by timm's names (.safetensors, .pth, .pt, .bin), such as "
                "those of SSL4EO-S12. It replaces the size chosen above; patches, position grid and bands are "
                "fitted to the tiles. Leave empty to start from random weights."
            ),
            tr("Weights (*.safetensors *.pth *.pt *.bin)"),
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
    ]


def _phases():
    """After all heads have learned: gates close, the rest is trained on; the spectral network."""
    return [
        number(
            "GATE_EPOCHS",
            tr("Gate epochs"),
            tr("Epochs in which the heads close down to the share asked for."),
            8,
            1,
        ),
        number("FINETUNE_EPOCHS", tr("Fine-tuning epochs"), tr("Epochs of the surviving heads after that."), 16, 0),
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
            seed(),
        ]
    )


def checkpoints():
    """Where a long training is kept, so that it can go on after an interruption."""
    return advanced(
        [
            switch(
                "RESUME",
                tr("Resume"),
                tr("Go on from the last checkpoint; ends as if it had never been interrupted."),
                False,
            ),
            fields.folder_output(
                "CHECKPOINTS", tr("Checkpoints"), tr("Folder for checkpoints, one per epoch; the last is kept.")
            ),
        ]
    )


def seed():
    """Of everything random."""
    return number("SEED", tr("Seed"), tr("The same seed, data and machine give the same result."), 0, 0)


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
        *advanced([*_decoder(), *_masks()]),
    ]


def _decoder():
    """Which segmentation network."""
    return [
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
        fields.text(
            "ENCODER",
            tr("Encoder"),
            tr("Encoder of the U-Net: any name of segmentation_models_pytorch, such as resnet18 or resnet34."),
            "resnet18",
        ),
    ]


def _masks():
    """How it learns pseudomasks and tags together, and when it stops."""
    return [
        switch(
            "CLIP",
            tr("Clip gradients of improbable labels"),
            tr(
                "Pixels whose loss on the pseudomask is far above that of their surroundings, probably its "
                "errors, teach nothing."
            ),
            False,
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
