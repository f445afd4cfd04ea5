"""eval and eval --matrix, as their user types them."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from rich.cells import cell_len
from tiny import write_data
from typer.testing import Result

from niwfctl.cli.matrix import show_matrix
from niwfctl.cli.output import out
from niwfctl.repository import Repository
from niwfctl.repository.compose import Recipe
from niwfctl.repository.history import Commit
from niwfctl.repository.matrix import Matrix, Row, Task
from niwfctl.repository.measure import Data, Measured

Command = Callable[..., Result]
Refused = Callable[..., None]


@pytest.fixture
def matrix(niwfctl: Command, committed: Repository) -> Command:
    """Runs `eval --matrix` in `committed`, on apples."""
    data = write_data(committed.path / "apple.jsonl", rows=6)

    def run(*arguments: object, **options: object) -> Result:
        given = ("--data", f"apple={data.name}", *arguments)
        result = niwfctl("-C", committed.path, "eval", "--matrix", *given, **options)
        assert result.exit_code == 0, (result.output, result.exception)
        return result

    return run


def test_eval_measures_anew_each_time_and_says_what_is_under_way(
    niwfctl: Command, committed: Repository, data: Path
) -> None:
    for _ in range(2):
        done = niwfctl("-C", committed.path, "eval", "apple", "--auto", "--data", data)
        assert done.stderr.splitlines() == [
            "loading the backbone",
            "base: measuring 40 rows",
            "apple: measuring 40 rows",
            "--auto: measuring 40 rows",
        ]


@pytest.mark.parametrize("given", [["apple"], ["apple@HEAD"], ["half"], ["--auto"]], ids=str)
def test_data_that_a_capability_learned_is_warned_of(
    niwfctl: Command,
    committed: Repository,
    data: Path,
    given: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    committed.compose(["apple"], "half", Recipe((0.5,)))
    committed.checkout(None)
    done = niwfctl("-C", committed.path, "eval", *given, "--data", data)
    assert done.exit_code == 0
    (said,) = caplog.messages
    name = "apple" if given == ["--auto"] else given[0]
    assert f"{name!r} was trained on most rows" in said
    shown = re.search(r"`niwfctl (show apple\S*)`", said)[1]
    assert "held-out" in niwfctl("-C", committed.path, *shown.split()).stdout


def test_other_data_and_the_base_are_measured_without_a_warning(
    niwfctl: Command,
    committed: Repository,
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = write_data(tmp_path / "other.jsonl", rows=3)
    niwfctl("-C", committed.path, "eval", "apple", "--auto", "--data", other)
    committed.checkout(None)
    niwfctl("-C", committed.path, "eval", "--data", data)
    assert not caplog.messages


def test_a_matrix_shows_each_commit_and_what_was_forgotten(
    matrix: Command, committed: Repository
) -> None:
    committed.remove("apple")
    first = matrix("--exact-match", "--max-new-tokens", 2)
    lines = first.stdout.splitlines()
    assert lines[0] == "perplexity" and lines[1].split() == ["apple"]
    base, added, removed = (line.split() for line in lines[2:5])
    assert base[0] == "base" and added[1:3] == ["+", "apple"] and removed[1:3] == ["-", "apple"]
    assert removed[-1] == f"({base[-1]})" and added[-1] not in (base[-1], removed[-1])
    assert re.search(r"average +-\d\.\d{4} nats a token \(perplexity [\d.]+\)", first.stdout)
    assert re.search(r"forgetting +\+\d\.\d{4} nats a token", first.stdout)
    assert re.search(r"forward transfer +-\n", first.stdout)
    assert "exact match" in lines and "that commit has no capability" in first.stdout
    second = matrix("--exact-match", "--max-new-tokens", 2)
    assert second.stdout == first.stdout and not second.stderr
    assert len(matrix("--again").stderr.splitlines()) == 4


def test_a_matrix_as_json_holds_the_figures_that_the_table_shows(
    matrix: Command, committed: Repository
) -> None:
    found = json.loads(matrix("--json", "--rev", "HEAD").stdout)
    (task,), (row,), (base,) = found["tasks"], found["commits"], found["base"]
    assert task["learnt"] == row["commit"] == committed.git.head() and task["rows"] == 6
    shown = matrix().stdout
    for figures in (base, *row["figures"]):
        assert f"{figures['perplexity']:.3f}" in shown
    assert found["transfer"]["perplexity"]["backward"] is None


@pytest.mark.parametrize(("name", "magic"), [("map.png", b"\x89PNG"), ("map.svg", b"<?xml")])
def test_a_matrix_is_drawn(matrix: Command, tmp_path: Path, name: str, magic: bytes) -> None:
    matrix("--exact-match", "--max-new-tokens", 2, "--plot", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def table(tasks: int, commits: int) -> Matrix:
    """Each commit learns a task while there are some, and makes the first worse."""
    names = [f"a-task-called-{place}" for place in range(tasks)]
    rows = [
        Row(
            Commit(f"{row:040x}", "Ada", "ada@example.org", "", (), f"Commit {row}", ()),
            frozenset(names[: row + 1]),
            tuple(Measured(1234.5678 if task else 2.0 + row, 9) for task in range(tasks)),
        )
        for row in range(commits)
    ]
    found = [Task(name, Data((), ""), place) for place, name in enumerate(names)]
    return Matrix(tuple(found), (Measured(40.0, 9),) * tasks, tuple(rows), ())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_wide_table_is_folded_into_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "_width", width)
    with out.capture() as shown:
        show_matrix(table(tasks=10, commits=20))
    lines = shown.get().split("\naverage")[0].split("\n")
    assert max(map(cell_len, lines)) <= width
    blocks = sum(line.startswith("base ") for line in lines)
    assert blocks == -(-10 // ((width - 7) // 16))
    assert sum(line.startswith("000000") for line in lines) == 20 * blocks
    for place in range(10):
        assert shown.get().count(f"a-task-…lled-{place}") == 1


def test_progress_on_a_terminal_counts_the_rows(committed: Repository) -> None:
    write_data(committed.path / "apple.jsonl", rows=200)
    terminal, end = pty.openpty()
    program = [sys.executable, "-c", "from niwfctl.cli.main import main; main()"]
    arguments = ["-C", committed.path, "eval", "apple", "--data", "apple.jsonl"]
    running = subprocess.Popen(
        [*program, *arguments, "--batch-size", "1"],
        stdout=subprocess.PIPE,
        stderr=end,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
    )
    os.close(end)
    said = b""
    with suppress(OSError):  # the terminal is closed
        while piece := os.read(terminal, 1 << 16):
            said += piece
    os.close(terminal)
    answer, _ = running.communicate(timeout=60)
    assert running.returncode == 0 and answer.startswith(b"base ") and b"\napple " in answer
    assert re.search(rb"apple .*? \d+ of 200 rows", said) and b"measuring" not in said


def test_ctrl_c_keeps_what_is_measured(committed: Repository, matrix: Command) -> None:
    endless = write_data(committed.path / "endless.jsonl", rows=20_000)
    command = [sys.executable, "-c", "from niwfctl.cli.main import main; main()"]
    arguments = ["-C", committed.path, "eval", "--matrix", "--auto", "--data", "apple=apple.jsonl"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes["env"] = os.environ | {"OMP_NUM_THREADS": "1"}
    # what runs in the background inherits a SIGINT that is ignored
    pipes["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    running = subprocess.Popen([*command, *arguments, "--data", f"endless={endless.name}"], **pipes)
    for line in running.stderr:
        if "endless of the base" in line:
            running.send_signal(signal.SIGINT)
            break
    answer, said = running.communicate(timeout=60)
    assert running.returncode == 130 and not answer
    assert said.splitlines()[-1] == "niwfctl: interrupted" and "Traceback" not in said
    measured = [line for line in matrix("--auto").stderr.splitlines() if "measuring" in line]
    assert measured == [f"apple at {committed.git.head()[:7]} (2 of 2): measuring 6 rows"]
    assert committed.verify().ok and not committed.git.plain("status", "--porcelain", "niwf.toml")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["--data apple=FILE"]),
        (["apple"], 2, ["give no names"]),
        (["--data", "apple.jsonl"], 2, ["--data apple.jsonl", "NAME=FILE"]),
        (["--data", "=apple.jsonl"], 2, ["NAME=FILE"]),
        (["--data", "pear=apple.jsonl"], 4, ["'pear'", "apple"]),
        (["--data", "apple=none.jsonl"], 5, ["none.jsonl"]),
        (["--data", "apple=apple.jsonl", "--rev", "nowhere"], 4, ["nowhere"]),
        (["--data", "apple=apple.jsonl", "--rev", "nowhere..HEAD"], 4, ["nowhere"]),
        (["--data", "apple=apple.jsonl", "--rev", "HEAD..HEAD~1"], 2, ["first-parent"]),
        (["--data", "apple=apple.jsonl", "--rev", "HEAD~1...HEAD"], 2, ["give A..B"]),
        (["--data", "apple=apple.jsonl", "--rev", "HEAD~1"], 2, ["no commit of HEAD~1"]),
        (["--plot", "map.gif"], 2, [".png or .svg"]),
        (["--plot", "none/map.png"], 2, ["no folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_matrix_that_cannot_be_is_refused_before_anything_is_measured(
    refused: Refused, committed: Repository, arguments: list[str], code: int, words: list[str]
) -> None:
    write_data(committed.path / "apple.jsonl", rows=2)
    refused(committed, ["eval", "--matrix", *arguments], code, *words)
    assert not (committed.private / "cache" / "measured").exists()


@pytest.mark.parametrize("option", [["--rev", "HEAD"], ["--plot", "a.png"], ["--again"]])
def test_options_of_the_matrix_need_it(
    refused: Refused, committed: Repository, data: Path, option: list[str]
) -> None:
    refused(committed, ["eval", "--data", data, *option], 2, "--matrix")
