# make run    set up and run the main job on the embedded model
# make test   set up and run the tests
# make lint   formatting, lint and types
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready

.PHONY: run test lint
run: $(READY)
	$(VENV)/bin/python main.py

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# torch first: asked for alone it is the build of this platform, and what follows leaves it as it is.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
