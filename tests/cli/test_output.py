"""Standard output that is closed, full, or of an encoding that lacks letters."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import Result

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


@pytest.mark.parametrize(
    "command", ["show apple", "log", "log --json", "log --graph", "status", "undo --list", "--help"]
)
def test_a_reader_that_is_gone_ends_the_command_with_141_and_without_a_word(
    committed: Repository, command: str
) -> None:
    end, written = os.pipe()
    os.close(end)
    line = [sys.executable, "-m", "niwfctl", "-C", str(committed.path), *command.split()]
    done = subprocess.run(line, stdout=written, stderr=subprocess.PIPE)
    os.close(written)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_that_goes_away_while_it_is_written_to_means_141_however_often(
    committed: Repository,
) -> None:
    for number in range(20):
        committed.rename("apple", f"apple{number}")
        committed.rename(f"apple{number}", "apple")
    line = 'for i in 1 2 3 4 5 6; do {} log | head -1 >/dev/null; echo "${{PIPESTATUS[0]}}"; done'
    command = f'"{sys.executable}" -m niwfctl -C "{committed.path}"'
    done = subprocess.run(["bash", "-c", line.format(command)], capture_output=True, text=True)
    assert not done.stderr
    assert set(done.stdout.split()) <= {"0", "141"} and "141" in done.stdout


def test_work_is_done_though_nobody_reads_of_it(committed: Repository) -> None:
    assert not run(committed.path, "rm apple", "| true").stderr
    assert "apple" not in Repository.open(committed.path).atlas()


def test_errors_that_nobody_reads_end_a_command_with_141(committed: Repository) -> None:
    end, written = os.pipe()
    os.close(end)
    line = [sys.executable, "-m", "niwfctl", "-C", str(committed.path), "show", "nothing"]
    assert subprocess.run(line, stderr=written).returncode == 141
    os.close(written)


@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize(
    ("command", "name", "begins"),
    [
        ("map --html", "map.html", b"<!doctype html>"),
        ("map --png", "map.png", b"\x89PNG"),
        ("diff apple apple --plot", "distances.png", b"\x89PNG"),
        ("check --junit", "report.xml", b"<?xml"),
        ("bundle create", "apple.bundle", b"bundle.json"),
    ],
)
def test_an_output_is_written_into_the_pipe_or_through_the_link_that_is_there(
    niwfctl: Callable[..., Result],
    committed: Repository,
    tmp_path: Path,
    command: str,
    name: str,
    begins: bytes,
    kind: str,
) -> None:
    file, target = tmp_path / name, tmp_path / "target"
    if kind == "link":
        file.symlink_to(target)
        done = niwfctl("-C", committed.path, *command.split(), file)
    else:
        os.mkfifo(file)
        with target.open("wb") as read, subprocess.Popen(["cat", file], stdout=read):
            done = niwfctl("-C", committed.path, *command.split(), file)
    assert done.exit_code == 0, done.output
    assert file.is_symlink() if kind == "link" else file.is_fifo()
    assert target.read_bytes().lower().startswith(begins.lower())


def on_a_terminal(path: Path, command: str, **env: str) -> str:
    """What a command shows on a terminal until it ends by itself."""
    terminal, end = os.openpty()
    line = [sys.executable, "-m", "niwfctl", "-C", str(path), *command.split()]
    streams = {"stdin": end, "stdout": end, "stderr": end}
    with subprocess.Popen(line, env={**os.environ, "TERM": "xterm", **env}, **streams) as process:
        os.close(end)
        shown = b""
        with suppress(OSError):  # as Linux tells the end of it
            while part := os.read(terminal, 1 << 16):
                shown += part
    os.close(terminal)
    assert process.returncode == 0
    return shown.decode()


@pytest.mark.skipif(not shutil.which("less"), reason="needs less")
@pytest.mark.parametrize("options", ["", "--oneline", "--graph"])
def test_a_short_log_is_shown_with_its_colours_by_a_pager_that_ends_by_itself(
    committed: Repository, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    for name in ("LESS", "MANPAGER", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    shown = on_a_terminal(committed.path, f"log {options}", PAGER="echo PAGED; less")
    assert "PAGED" in shown and "\x1b[33m" in shown and "Apples" in shown


def test_what_less_is_told_by_the_user_stays(committed: Repository) -> None:
    assert "LESS=-S" in on_a_terminal(committed.path, "log", PAGER="env", LESS="-S")
