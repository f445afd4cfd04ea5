"""The benchmark for a GPU, on tiny models: all is measured, and failures cost only their cells."""

import json
import math
import os
import sys
import weakref
from pathlib import Path

import common
import mistral7b
import pytest
import torch
from gpu import Machine
from mistral_cells import NO_MEMORY, PARTS, Results
from mistral_guarantees import Session
from mistral_inference import inference
from mistral_table import table
from mistral_training import field, qlora, training
from tiny import save_tiny
from torch import nn

from niwfctl.backbone.load import load, resolve

ORIGIN = {"gpu": "none", "weights": "random", "code": "a", "cuda": None}
ORIGIN |= {"bitsandbytes": "1", "cublas_workspace": None}
TOO_LONG = (2**50, 2)  # tokens: no machine can address them


@pytest.fixture(autouse=True)
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are written."""
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def results_of(machine: Machine, **origin: str) -> Results:
    return Results("here", machine, ORIGIN | origin, table)


def test_parts_measured_by_several_runs_are_one_result_that_is_partial_until_the_last(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def run(*parts: str) -> dict:
        options = ["--tiny", "--keep", str(tmp_path / "kept"), "--only", *parts]
        monkeypatch.setattr(sys, "argv", ["mistral7b.py", *options])
        mistral7b.main()
        return json.loads((written / "mistral7b-tiny.json").read_text())

    found = run("training")
    assert found["partial"] and found["finished"] == ["training"]
    report = (written / "mistral7b-tiny.md").read_text()
    assert "Partial: not measured to the end are guarantees, inference" in report
    assert "random weights" in report
    trained, found = found["cells"]["training"], run("guarantees", "inference")
    assert not found["partial"] and set(found["finished"]) == set(PARTS)
    assert "Partial" not in (written / "mistral7b-tiny.md").read_text()
    assert found["cells"]["training"] == trained
    sides = [cell for cell in trained if "side" in cell]
    assert len(sides) == 3 * 4 and all(cell["tokens_per_second"] > 0 for cell in sides)
    steps = {cell["step"]: cell for cell in found["cells"]["guarantees"]}
    for same in ("two passes", "after the second commit"):
        bits = steps[f"{same}, equal bit for bit"]
        assert bits["gates"] and bits["change of weights"] and bits["logits"]
    assert steps["verify"]["holds"] and steps["verify --deep"]["holds"]
    for training_step in ("train, stop and resume", "the same in 8 bits"):
        assert math.isfinite(steps[training_step]["resumed"])
    answered = [cell for cell in found["cells"]["inference"] if "side" in cell]
    assert {cell["side"] for cell in answered} == {"bare", "given", "auto", "mixed", "PEFT"}
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ  # users have not set it


def test_a_training_cell_without_memory_costs_no_other_cell(backbone: Path, written: Path) -> None:
    machine = Machine("none", (TOO_LONG, (16, 2)), (1,), 8, 2, 1)
    results = results_of(machine)
    results.run("training", lambda: training(resolve(str(backbone)), machine, results))
    cells = [cell for cell in results.cells["training"] if "side" in cell]
    assert [cell.get("error") for cell in cells] == 3 * (4 * [NO_MEMORY] + 4 * [None])
    assert results.finished == ["training"] and not results.failed
    assert f"| {NO_MEMORY} |" in (written / "here.md").read_text()


def test_answers_without_memory_cost_no_other_cell(backbone: Path, tmp_path: Path) -> None:
    machine = Machine("none", (), (TOO_LONG[0], 1), 8, 2, 1)
    results = results_of(machine)
    repository = Session(tmp_path, str(backbone), machine).with_two_capabilities()
    results.run("inference", lambda: inference(repository, machine, results))
    cells = [cell for cell in results.cells["inference"] if "side" in cell]
    expected = {TOO_LONG[0]: NO_MEMORY, 1: None}
    assert all(cell.get("error") == expected[cell["batch"]] for cell in cells)
    assert len(cells) == 2 * 5


def test_a_part_that_cannot_begin_leaves_the_others_to_be_measured(written: Path) -> None:
    machine = Machine.tiny()
    results = results_of(machine)
    results.run("training", lambda: training(resolve("/nowhere"), machine, results))
    assert results.failed and results.finished == []
    results.run("inference", lambda: None)
    found = json.loads((written / "here.json").read_text())
    assert "'/nowhere' does not exist" in found["cells"]["training"][0]["error"]
    assert found["partial"] and found["finished"] == ["inference"]


def test_every_cell_is_on_disk_before_the_next_begins(written: Path) -> None:
    results, seen = results_of(Machine.tiny()), []

    def look() -> None:
        seen.append(json.loads((written / "here.json").read_text()))

    results.measure("training", {"step": "first"}, lambda: {"figure": 1})
    results.measure("training", {"step": "second"}, look)
    assert seen[0]["partial"]
    assert [cell["figure"] for cell in seen[0]["cells"]["training"]] == [1]


def test_what_a_cell_held_when_memory_ran_out_is_freed_before_the_next_begins() -> None:
    results, held = results_of(Machine.tiny()), []

    def grow() -> None:
        first = torch.ones(2**20)
        held.append(weakref.ref(first))
        torch.ones(2**60)

    assert not results.measure("training", {"step": "first"}, grow)
    assert results.measure("training", {"step": "second"}, lambda: {"held": held[0]() is not None})
    first, second = results.cells["training"]
    assert first["error"] == NO_MEMORY and not second["held"]


@pytest.mark.parametrize(("origin", "kept"), [({}, ["training"]), ({"code": "b"}, [])])
def test_results_of_other_code_are_not_mixed(origin: dict[str, str], kept: list[str]) -> None:
    results_of(Machine.tiny()).run("training", lambda: None)
    assert results_of(Machine.tiny(), **origin).finished == kept


@pytest.mark.parametrize("same_work", [False, True])
def test_a_side_that_fails_leaves_the_backbone_bare(tmp_path: Path, same_work: bool) -> None:
    folder = save_tiny(tmp_path / "backbone", vocab_size=200, bos_token_id=1, eos_token_id=2)
    backbone = load(resolve(str(folder)))
    bare = modules(backbone.model)
    shape = (16, 2)  # bytes above the vocabulary of 200
    with pytest.raises(IndexError):
        field(backbone, Machine.tiny(), shape, True, "adamw")
    assert modules(backbone.model) == bare
    with pytest.raises(IndexError):
        qlora(backbone, Machine.tiny(), shape, True, "adamw", same_work)
    assert modules(backbone.model) == bare
    assert not backbone.model.is_gradient_checkpointing and not backbone.model.training


def modules(model: nn.Module) -> dict[str, bool]:
    """Names of all modules, and whether their forward is replaced."""
    return {name: "forward" in vars(module) for name, module in model.named_modules()}
