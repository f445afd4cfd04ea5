"""The benchmark for a GPU, on a tiny model: what it reports is all there."""

import json
import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_every_side_and_setting_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import common
    import mistral7b

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["mistral7b.py", "--tiny"])
    mistral7b.main()
    found = json.loads((tmp_path / "mistral7b-tiny.json").read_text())
    assert found["weights"] == "random"
    assert found["verified"]
    assert all(found["unchanged"].values())
    assert {"verify", "verify --deep"} <= found["seconds"].keys()
    assert found["resumed"].keys() == {"adamw", "paged_adamw_8bit"}
    losses = [loss for one in found["resumed"].values() for loss in one.values()]
    assert len(losses) == 4 and all(map(math.isfinite, losses))
    settings = {(row["checkpointing"], row["optimizer"]) for row in found["training"]["rows"]}
    assert len(settings) == 4
    sides = {"given", "auto", "mixed", "PEFT"}
    assert all(set(row["ratio"]) == sides for row in found["inference"]["rows"])
    assert all(math.isfinite(row["speed"]) for row in found["training"]["rows"])
    assert "random weights" in (tmp_path / "mistral7b-tiny.md").read_text()
