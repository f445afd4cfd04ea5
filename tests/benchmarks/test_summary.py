"""README's figures are read from the results, and the lines, that they name."""

import json
import math
from pathlib import Path

import pytest
import summary
from summary import average_accuracy, average_perplexity, kept_bits


def line(method: str, average: float, unchanged: str, way: str = "no task given"):
    return {"method": method, "way": way, "average": average, "unchanged": unchanged}


FIVE = {
    "lines": [
        line("niwfctl", -math.log(7), "4 of 4", "task given"),
        line("niwfctl", -math.log(8), "3 of 4"),
        line("lora", -math.log(4), "0 of 4"),
        line("lora", -math.log(9), "1 of 4"),
    ],
    "records": [{"lr": 0.00142}, {"lr": 0.00142}],
}
CLASSES = {
    "lines": [line("niwfctl", 0.75, "2 of 4"), line("ewc", 0.5, "0 of 4")],
    "records": [{}],  # of a version that had one rate and did not say it
}


def test_perplexities_are_the_mean_over_seeds_as_in_the_tables() -> None:
    assert average_perplexity(FIVE) == (
        "niwfctl 8.00, one LoRA 6.50 (2 seeds); at a learning rate of 0.00142"
    )


def test_accuracies_are_those_without_a_task_given() -> None:
    assert average_accuracy(CLASSES) == (
        "niwfctl 0.750, EWC on LoRA 0.500; at a learning rate of 0.003"
    )


def test_kept_bits_are_those_of_all_seeds() -> None:
    assert kept_bits(FIVE) == (
        "told the task: niwfctl 4 of 4; not told: niwfctl 3 of 4, one LoRA 1 of 8"
    )


def test_figures_over_peft_on_the_same_layers_appear_once_they_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "ROOT", tmp_path)
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    where = {"processor": "X", "cores": 2, "memory_gib": 8, "date": "2026-01-01"}
    ratio = {"peft": 0.5, "peft_autocast": 0.6}
    for more, expected in (
        ({}, ["0.50 (0.60)"]),
        ({"peft_same": 0.96, "peft_same_autocast": 0.97}, ["0.50 (0.60)", "0.96 (0.97)"]),
    ):
        results = {"machine": where, "ratio": ratio | more}
        (folder / "memory.json").write_text(json.dumps(results))
        lines = [line.split(" | ") for line in summary.table() if "memory.md" in line]
        assert [line[1] for line in lines] == expected
