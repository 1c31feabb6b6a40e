# Seven commands. Each makes what it needs first, in a virtual environment of its own.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BENCHMARK ?= scoring_phantoms
OUT ?= benchmark-output
MODEL ?= new-model
SOURCES = calcium/models/training

.PHONY: setup demo test lint types bench model scans-named

setup: $(VENV)/.ready-dev
demo: $(VENV)/.ready ; $(VENV)/bin/calcium-score demo --out demo-output
test: $(VENV)/.ready-dev ; $(VENV)/bin/python -X faulthandler -m pytest
lint: $(VENV)/.ready-dev ; $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/codespell
types: $(VENV)/.ready-dev ; $(VENV)/bin/mypy
bench: $(VENV)/.ready-dev ; $(VENV)/bin/python benchmarks/$(BENCHMARK).py --out $(OUT) $(ARGS)

scans-named:
	@test -d "$(SCANS)" || { echo "make model SCANS=FOLDER needs the folder of the scans that $(SOURCES)/README.md names"; exit 2; }

# The default model from scratch, into MODEL, from the folder SCANS of the scans that $(SOURCES) names. It goes on where it was
# stopped. The errors that the intervals are made of are those of trainings without the patients, by the same recipe.
model: scans-named $(VENV)/.ready
	$(VENV)/bin/calcium-score atlas build "$(SCANS)" --out $(MODEL)-work/atlas
	$(VENV)/bin/calcium-score train alignment "$(SCANS)" --atlas $(MODEL)-work/atlas --out $(MODEL) --work $(MODEL)-work/alignment
	$(VENV)/bin/calcium-score train scoring "$(SCANS)" --out $(MODEL) --work $(MODEL)-work/scoring --annotations $(SOURCES)/annotations
	$(VENV)/bin/calcium-score train calibration $(SOURCES)/calibration/predicted.csv $(SOURCES)/calibration/reference.csv --out $(MODEL)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(VENV)/bin/python setup.cfg pyproject.toml
	@echo "Installing into $(VENV): a few minutes the first time."
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
