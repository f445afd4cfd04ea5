PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test lint wheel

# torch comes first and by its exact version, so that no dependency pulls another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: $(VENV)/.installed
	$(BIN)/pytest -q

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

wheel: $(VENV)/.installed
	$(BIN)/python -m build --quiet --wheel
