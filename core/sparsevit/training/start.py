"""Where a transformer starts from: random weights, or those of a pretrained encoder."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevit.models.landcover import TagTransformer
from sparsevit.models.pretrained import PretrainedEncoder, PretrainedSettings, read_pretrained, start_from, unseen_bands
from sparsevit.reporting import Reporter


@dataclass(frozen=True)
class Start:
    """A pretrained encoder, and the bands of the scene that it is asked to see."""

    encoder: PretrainedEncoder
    bands: list[str]

    def give_to(self, network: TagTransformer) -> None:
        """Give a fresh transformer of the encoder's shape its weights, in place."""
        start_from(network, self.encoder, self.bands)


def read_start(settings: PretrainedSettings, bands: list[str], reporter: Reporter) -> Start | None:
    """Read the encoder that is asked for; none if none is.

    Args:
        settings: Its file and its bands.
        bands: Bands of the tiles.
        reporter: Told which bands the encoder has never seen.

    Raises:
        InputError: The file does not hold a plain vision transformer, or one that knows none of the bands.
    """
    encoder = read_pretrained(settings)
    if encoder is None:
        return None
    unseen = unseen_bands(encoder, bands)
    if unseen:
        reporter.log(f"{encoder.name} has never seen {', '.join(unseen)}: they start from random weights.", "warning")
    return Start(encoder, bands)
