"""The guide to the library is run as its reader would run it, on a tiny backbone."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "library.md"


def test_the_snippets_of_the_guide_run_one_after_another(
    tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = f"model={str(backbone)!r}, dim=8"
    names: dict[str, object] = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S):
        exec(compile(code.replace('model="smollm2"', tiny), PAGE, "exec"), names)
    said = capsys.readouterr().out
    assert "added both" in said
    assert "no capability is called 'singulars'" in said
    assert "FAILED" not in said and "ok loud logits" in said
