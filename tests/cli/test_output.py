"""Standard output that is closed, full, or of an encoding that lacks letters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from niwfctl.repository import Repository

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(path: Path, command: str, to: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command by a shell, with its output redirected as `to` says."""
    line = f'exec "{sys.executable}" -m niwfctl -C "{path}" {command} {to}'
    return subprocess.run(["sh", "-c", line], capture_output=True, env={**os.environ, **env})


def sentence(done: subprocess.CompletedProcess[bytes]) -> str:
    (line,) = done.stderr.decode().splitlines()
    return line


@pytest.mark.parametrize("to", [">/dev/full", ">&-"])
@pytest.mark.parametrize("options", ["", "--json"])
def test_a_report_that_cannot_be_written_is_not_taken_for_work_that_was_not_done(
    committed: Repository, to: str, options: str
) -> None:
    done = run(committed.path, f"rm apple {options}", to)
    assert done.returncode == 12
    assert "the report could not be written to standard output" in sentence(done)
    assert "apple" not in Repository.open(committed.path).atlas()


@pytest.mark.parametrize("to", [">/dev/full", ">&-"])
@pytest.mark.parametrize("options", ["--help", "--version", "rm --help"])
def test_help_that_cannot_be_written_is_told_in_a_sentence(
    tmp_path: Path, to: str, options: str
) -> None:
    done = run(tmp_path, options, to)
    assert done.returncode == 12 and "standard output" in sentence(done)


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "latin-1"}, PLAIN], ids=["latin-1", "C"])
def test_text_has_a_question_mark_for_what_the_encoding_lacks(
    committed: Repository, env: dict[str, str]
) -> None:
    done = run(committed.path, "show apple", **env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b" ? " in done.stdout and b"perplexity" in done.stdout


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-16"])
def test_json_is_utf_8_whatever_the_encoding(committed: Repository, encoding: str) -> None:
    message = "Äpfel → Birnen"
    committed.remove("apple", message)
    done = run(committed.path, "log --json", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8"))[0]["message"] == message


def test_a_reader_that_goes_away_ends_the_command_without_a_word(committed: Repository) -> None:
    done = run(committed.path, "show apple", "| true")
    assert not done.stderr
