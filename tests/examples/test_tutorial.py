"""The tutorial is followed word by word, on a tiny backbone and with fewer steps."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import save_tiny
from typer.testing import Result

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
MAKE = runpy.run_path(str(ROOT / "docs" / "make_tutorial.py"))


def made_tiny(command: str, backbone: Path) -> str:
    """The same command for a backbone that has learned nothing, so prompts do not lie apart."""
    if command.startswith("niwfctl init"):
        return f"{command} --model {shlex.quote(str(backbone))} --dim 8"
    if command.startswith("niwfctl commit"):
        return f"{command} --accept-shadow"
    return re.sub(r"--steps \d+", "--steps 2", command)


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")
def test_every_command_of_the_tutorial_works(
    niwfctl: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = save_tiny(tmp_path / "backbone")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(ROOT)
    for name, content in MAKE["files"](PAGE).items():
        file = tmp_path / "tutorial" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    done = set()
    for command in MAKE["commands"](PAGE):
        command = made_tiny(command, backbone)
        first, *arguments = shlex.split(command)
        if first == "cd":
            monkeypatch.chdir(Path(arguments[0]).expanduser())
        elif first == "niwfctl":  # in this process, which has torch imported already
            result = niwfctl(*arguments)
            assert result.exit_code == 0, (command, result.output, result.exception)
            done.add(arguments[0])
        else:
            subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert {"init", "train", "commit", "route", "compose", "merge", "undo", "push"} <= done
    assert (tmp_path / "tutorial" / "map.html").stat().st_size > 10_000


def test_new_answers_take_the_place_of_old_ones_and_leave_the_commands() -> None:
    commands = MAKE["commands"](PAGE)
    first, second = (
        MAKE["filled"](PAGE, [f"{answer} {index}" for index in range(len(commands))])
        for answer in ("ONE", "TWO")
    )
    assert MAKE["commands"](first) == commands and f"ONE {len(commands) - 1}\n" in first
    assert MAKE["filled"](first, [f"TWO {index}" for index in range(len(commands))]) == second


def test_of_a_long_answer_its_beginning_and_its_end_are_shown() -> None:
    shown = MAKE["shortened"]("".join(f"{number}\n" for number in range(100)) + "x" * 200)
    lines = shown.splitlines()
    assert (lines[0], lines[-2]) == ("0", "99")
    assert "…" in lines and len(lines[-1]) == 100
