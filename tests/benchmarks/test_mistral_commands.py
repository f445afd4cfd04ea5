"""A session on Mistral's architecture, in small: every command works and is measured."""

import json
import sys
from pathlib import Path

import pytest


def test_every_command_of_a_session_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import common
    import mistral_commands

    results, folder = tmp_path / "results", tmp_path / "work"
    monkeypatch.setattr(common, "RESULTS", results)
    monkeypatch.setattr(sys, "argv", ["mistral_commands.py", str(folder), "--tiny"])
    mistral_commands.main()
    text = (results / "mistral_commands-tiny.json").read_text()
    assert str(tmp_path) not in text
    found = json.loads(text)["commands"]
    verbs = [row["command"].split()[0] for row in found]
    assert verbs[:4] == ["init", "train", "commit", "checkout"]
    assert found[-1]["command"] == "verify --deep"
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0 for row in found)
    assert "random weights" in (results / "mistral_commands-tiny.md").read_text()
