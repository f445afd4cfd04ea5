"""How `route --data` shows who owns files of prompts."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from tiny import write_data
from typer.testing import Result

from niwfctl.cli.output import out
from niwfctl.cli.route import show_owners
from niwfctl.repository import Repository


def shown(monkeypatch: pytest.MonkeyPatch, width: int, counts: dict[str, Counter[str]]) -> list:
    """The lines on a terminal of some width."""
    monkeypatch.setattr(out, "_width", width)
    with out.capture() as captured:
        show_owners(counts)
    return captured.get().splitlines()


def test_without_a_terminal_every_file_and_owner_has_a_plain_line(
    niwfctl: Callable[..., Result], committed: Repository, tmp_path: Path
) -> None:
    folder = tmp_path / ("a-folder-with-a-long-name-" * 4) / "[bold]"
    folder.mkdir(parents=True)
    files = [write_data(folder / f"{word}.jsonl", 5, word) for word in ("apple", "other")]
    given = [part for file in files for part in ("--data", file)]
    done = niwfctl("-C", committed.path, "route", *given, env={"COLUMNS": "80"})
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and len(lines) in (2, 3, 4)
    for line in lines:
        file, owner, share, count = line.split(maxsplit=3)
        assert file in {f"{one}:" for one in files} and owner in ("apple", "base")
        assert f"{int(count.split()[0][1:]) / 5:.1%}" == share and count.endswith(" of 5)")


@pytest.mark.parametrize(
    ("owners", "width", "across"),
    [(1, 40, False), (1, 80, True), (3, 80, False), (3, 100, True), (12, 200, False)],
)
def test_on_a_terminal_files_stay_apart_and_no_column_is_cut(
    owners: int, width: int, across: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["base", *(f"capability-{place}" for place in range(owners))]
    files = [f"../../shared/datasets/of-the-team/{word}.jsonl" for word in ("plum", "梨", "[b]")]
    counts = {
        file: Counter({name: 3 + place for name in names}) for place, file in enumerate(files)
    }
    lines = shown(monkeypatch, width, counts)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for file in files:
        assert text.count(file.rpartition("/")[2]) == 1
    assert all(name in text for name in names) and "prompts" in text
    share = f"{1 / len(names):.1%}"
    assert max(line.count(share) for line in lines) == (len(names) if across else 1)


def test_a_short_path_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, 80, {"a.jsonl": Counter(base=1), "b.jsonl": Counter(apple=3)})
    assert any(line.split()[1:7:2] == ["a.jsonl", "0.0%", "100.0%"] for line in lines)
