"""The engine's sentences in the words of QGIS."""

from __future__ import annotations

import re

from ..text import tr

# Not names from the user's data: the field 'classes' of a layer, the split 'train' of a tile index.
_QUOTED = re.compile(r"(parameter )?(?<!field )(?<!split )(?<!class )'([a-z_]+)'")
_COMMAND_HELP = re.compile(r"\s*See `sparsevit [a-z ]+ --help`\.")


def algorithm_names():
    """The algorithm of each job, as the toolbox calls it."""
    return {
        "map": tr("Map land cover from tags"),
        "tiles": tr("Create tiles"),
        "tag": tr("Tag tiles"),
        "review": tr("Review tags"),
        "train": tr("Train classifier"),
        "pseudomask": tr("Generate pseudomasks"),
        "suggest": tr("Suggest tiles to tag"),
        "refine": tr("Refine land cover"),
        "predict": tr("Predict land cover"),
        "inspect": tr("Inspect attention heads"),
        "study heads": tr("Study attention heads"),
        "assess": tr("Assess accuracy"),
        "vectorize": tr("Vectorise land cover"),
        "check": tr("Check engine"),
    }


def in_words_of_qgis(sentence, parameter_names):
    """Replace the names of jobs and fields by those of algorithms and parameters.

    The engine speaks as its command line does: “Run 'tag' on it first.” becomes “Run “Tag tiles” on it first.”

    Args:
        sentence: What the engine says.
        parameter_names: The names of the algorithm's parameters.
    """
    algorithms = algorithm_names()

    def reword(match):
        is_parameter, name = match.group(1) or "", match.group(2)
        if name in algorithms and not is_parameter:
            return "“{}”".format(algorithms[name])
        return is_parameter + name.upper() if name.upper() in parameter_names else match.group(0)

    return _QUOTED.sub(reword, _COMMAND_HELP.sub("", sentence))
