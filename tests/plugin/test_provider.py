"""The provider and its algorithms as QGIS sees them."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from qgis.core import QgsProcessingParameterDefinition

IDS = [
    "assessaccuracy",
    "checkengine",
    "createtiles",
    "generatepseudomasks",
    "inspectheads",
    "maplandcover",
    "predictlandcover",
    "refinelandcover",
    "reviewtags",
    "studyheads",
    "suggesttiles",
    "tagtiles",
    "trainclassifier",
    "vectorizelandcover",
]

# Fields of a job that have no parameter of their own: a result in one of two places is one field of the engine.
ALIASES = {"OUTPUT_FOLDER": "output", "PSEUDOMASK_FOLDER": "pseudomask"}


def is_optional(definition):
    return bool(definition.flags() & QgsProcessingParameterDefinition.Flag.FlagOptional)


def test_tests_run_what_users_receive(provider):
    import sparsevit_qgis

    assert Path(sparsevit_qgis.__file__).parts[-4:-1] == ("build", "plugins", "sparsevit_qgis")


def test_ids_are_stable(provider):
    assert provider.id() == "sparsevit"
    assert sorted(algorithm.name() for algorithm in provider.algorithms()) == IDS


def test_metadata_declares_a_processing_provider(provider):
    import sparsevit_qgis

    metadata = configparser.ConfigParser()
    metadata.read(Path(sparsevit_qgis.__file__).with_name("metadata.txt"), encoding="utf-8")
    general = metadata["general"]
    assert general["hasProcessingProvider"] == "yes"
    assert (general["qgisMinimumVersion"], general["qgisMaximumVersion"]) == ("3.22", "4.99")
    assert "plugin" not in general["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", general["version"])


def test_unloading_removes_provider_and_setting(plugin):
    from processing.core.ProcessingConfig import ProcessingConfig
    from qgis.core import QgsApplication

    plugin.unload()
    try:
        assert QgsApplication.processingRegistry().providerById("sparsevit") is None
        assert ProcessingConfig.getSetting("SPARSEVIT_PYTHON") is None
    finally:
        plugin.initProcessing()


@pytest.mark.parametrize("name", IDS)
def test_every_parameter_has_help(algorithm, name):
    tool = algorithm(name)
    silent = [d.name() for d in tool.parameterDefinitions() if len(d.help()) < 15]
    assert not silent


@pytest.mark.parametrize("name", IDS)
def test_algorithm_explains_itself(algorithm, name):
    tool = algorithm(name)
    assert tool.displayName() and tool.group() and tool.groupId() and tool.shortDescription()
    assert len(tool.tags()) >= 5
    assert len(re.sub("<.*?>", "", tool.shortHelpString())) > 150
    assert not tool.icon().isNull()


@pytest.mark.parametrize("name", IDS)
def test_lengths_and_shares_state_their_unit(algorithm, name):
    tool = algorithm(name)
    for definition in tool.parameterDefinitions():
        if definition.name().endswith("_M"):
            assert "(m)" in definition.description() and "metres" in definition.help()
        if definition.name().endswith(("_SHARE", "_GB", "_EPOCHS")):
            assert re.search(r"0–1|GB|[Ee]pochs|[Pp]asses", definition.description() + definition.help())


@pytest.mark.parametrize("name", IDS)
def test_words_are_static_strings(algorithm, name):
    tool = algorithm(name)
    enums = [d for d in tool.parameterDefinitions() if d.type() == "enum"]
    assert all(d.usesStaticStrings() and d.defaultValue() in d.options() for d in enums)


@pytest.mark.parametrize("name", IDS)
def test_parameters_are_the_fields_of_the_job(algorithm, contract, name):
    tool = algorithm(name)
    fields = contract[tool.JOB]["request"]
    names = {ALIASES.get(d.name(), d.name().lower()) for d in tool.parameterDefinitions()}
    assert names == set(fields)


@pytest.mark.parametrize("name", IDS)
def test_numbers_are_in_the_result_of_the_job(algorithm, contract, name):
    tool = algorithm(name)
    assert {field for _name, field, _label in tool.numbers()} <= set(contract[tool.JOB]["result"])


@pytest.mark.parametrize("name", IDS)
def test_defaults_bounds_and_words_equal_the_engines(algorithm, contract, name):
    tool = algorithm(name)
    fields = contract[tool.JOB]["request"]
    for definition in tool.parameterDefinitions():
        field = fields[ALIASES.get(definition.name(), definition.name().lower())]
        if definition.type() in ("number", "boolean", "enum"):
            assert definition.defaultValue() == field["default"] or field["required"], definition.name()
        if definition.type() == "enum" and field["words"]:
            assert sorted(definition.options()) == sorted(field["words"]), definition.name()
        if definition.type() == "number":
            assert definition.minimum() == field.get("ge", field.get("gt")), definition.name()
            assert definition.maximum() == field.get("le", field.get("lt", definition.maximum())), definition.name()
        if definition.type() == "string" and definition.defaultValue():
            assert definition.defaultValue() == field["default"], definition.name()


@pytest.mark.parametrize("name", IDS)
def test_what_the_engine_needs_is_mandatory(algorithm, contract, name):
    tool = algorithm(name)
    fields = contract[tool.JOB]["request"]
    # A raster or a folder, of which the algorithm checks that one is given; and a file that has a default.
    either_or = {"pseudomask", "scheme"}
    for definition in tool.parameterDefinitions():
        field = definition.name().lower()
        if field in fields and fields[field]["required"] and field not in either_or:
            assert not is_optional(definition), definition.name()
