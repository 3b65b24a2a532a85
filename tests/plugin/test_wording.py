"""The engine's sentences in the words of QGIS."""

from __future__ import annotations

import pytest


def test_jobs_are_called_as_in_the_toolbox(provider):
    from sparsevit_qgis.algorithms.wording import algorithm_names

    assert algorithm_names() == {a.JOB: a.displayName() for a in provider.algorithms()}


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("Run 'tag' on it first.", "Run “Tag tiles” on it first."),
        ("Lower 'min_valid'.", "Lower MIN_VALID."),
        ("parameter 'tiles': Field required. See `sparsevit train --help`.", "parameter TILES: Field required."),
        ("There is no class 'forest'.", "There is no class 'forest'."),
        ("tags.gpkg, field 'tiles', has no class.", "tags.gpkg, field 'tiles', has no class."),
        ("It has no tiles in the split 'train'.", "It has no tiles in the split 'train'."),
    ],
)
def test_names_become_those_of_qgis(provider, said, heard):
    from sparsevit_qgis.algorithms.wording import in_words_of_qgis

    assert in_words_of_qgis(said, {"MIN_VALID", "TILES"}) == heard
