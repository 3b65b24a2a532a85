# Every target works from a fresh clone on Debian or Ubuntu; `make` lists them.

SHELL := /bin/bash
PYTHON ?= python3
# QGIS from apt is built for the system's interpreter, whatever `python3` is first in PATH.
QGIS_PYTHON ?= /usr/bin/python3
BUILD ?= build
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

ENGINE := $(BUILD)/engine
ENGINE_PYTHON := $(ENGINE)/bin/python
QGIS_TESTS := $(BUILD)/qgis-tests
STAGED := $(BUILD)/plugins/sparsevit_qgis
VERSION := $(shell sed -n 's/^version=//p' metadata.txt)

DEV_TOOLS := pytest pytest-cov hypothesis ruff mypy bandit psutil pandas-stubs types-shapely types-Jinja2
QGIS_PACKAGES := qgis python3-qgis qgis-providers gdal-bin python3-gdal python3-venv fonts-dejavu-core
PLUGIN_SOURCES := $(shell find sparsevit_qgis resources/icons resources/schemes -type f -not -path '*/__pycache__/*') \
	metadata.txt LICENSE CHANGELOG.md

# The engine's interpreter, as users would set it; QGIS without a display.
export SPARSEVIT_PYTHON := $(abspath $(ENGINE_PYTHON))
export QT_QPA_PLATFORM := offscreen
# Waiting threads sleep in place of spinning, so that tests beside other work stay fast.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help env qgis plugin demo test test-core test-plugin test-system lint package bench clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '%-12s %s\n' "$$name" "$$text"; done

env: $(ENGINE)/.stamp ## Make the engine's environment (build/engine)

$(ENGINE)/.stamp: core/pyproject.toml core/constraints.txt
	test -x $(ENGINE_PYTHON) || $(PYTHON) -m venv $(ENGINE)
	$(ENGINE_PYTHON) -m pip install -q -c core/constraints.txt -e core $(DEV_TOOLS)
	# Without compiled files every start of the engine takes three times as long.
	PYTHONDONTWRITEBYTECODE= $(ENGINE_PYTHON) -m compileall -qq $(ENGINE)/lib || true
	touch $@

qgis: ## Install QGIS by apt where it is missing
	@command -v qgis_process.bin > /dev/null || command -v qgis_process > /dev/null \
		|| { $(SUDO) apt-get update -q && $(SUDO) apt-get install -q -y --no-install-recommends $(QGIS_PACKAGES); }

plugin: $(STAGED)/metadata.txt ## Stage what a user receives (build/plugins/sparsevit_qgis)

$(STAGED)/metadata.txt: $(PLUGIN_SOURCES)
	rm -rf $(STAGED)
	mkdir -p $(STAGED)/resources
	cp -r sparsevit_qgis/. $(STAGED)
	cp -r resources/icons resources/schemes $(STAGED)/resources
	cp LICENSE CHANGELOG.md metadata.txt $(STAGED)
	find $(STAGED) -name __pycache__ -prune -exec rm -r {} +
	find $(STAGED) -type d -empty -delete

demo: env qgis plugin ## Map the sample scene from tags and assess it (build/demo)
	$(ENGINE_PYTHON) demo/run.py $(BUILD)

test: test-core test-plugin test-system ## Run all tests: engine, plugin in real QGIS, qgis_process

test-core: env ## Run the engine's unit and property tests
	$(ENGINE_PYTHON) -m pytest -q tests/core tests/benchmarks

$(QGIS_TESTS)/.stamp: | qgis
	$(QGIS_PYTHON) -m venv --system-site-packages $(QGIS_TESTS)
	$(QGIS_TESTS)/bin/python -m pip install -q pytest==8.4.2 pytest-qgis==5.0.2 pytest-qt==4.5.0
	touch $@

test-plugin: env plugin $(QGIS_TESTS)/.stamp ## Run the plugin's tests in real QGIS
	PYTHONPATH=$(abspath $(BUILD))/plugins $(QGIS_TESTS)/bin/pytest -q --rootdir $(QGIS_TESTS) tests/plugin

test-system: env qgis plugin ## Run the staged plugin through qgis_process
	$(ENGINE_PYTHON) -m pytest -q tests/system

lint: env ## Check style, types and the portal's security rules
	$(ENGINE)/bin/ruff check .
	$(ENGINE)/bin/ruff format --check .
	$(ENGINE)/bin/mypy --config-file core/pyproject.toml
	$(ENGINE)/bin/bandit -q -r sparsevit_qgis

package: env plugin ## Make the zip for the QGIS portal and the engine's wheel (build/dist)
	mkdir -p $(BUILD)/dist
	rm -f $(BUILD)/dist/*
	find $(STAGED) -name __pycache__ -prune -exec rm -r {} +
	cd $(BUILD)/plugins && $(SPARSEVIT_PYTHON) -m zipfile -c ../dist/sparsevit_qgis-$(VERSION).zip sparsevit_qgis
	$(ENGINE_PYTHON) -m pip wheel -q --no-deps -w $(BUILD)/dist ./core
	rm -rf core/build
	ls -l $(BUILD)/dist

bench: env ## Measure quality, speed and memory (long)
	for script in benchmarks/*.py; do $(ENGINE_PYTHON) "$$script" || exit 1; done

clean: ## Remove everything that was built
	rm -rf $(BUILD)
