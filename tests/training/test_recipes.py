"""The programs of docs/data.md do what it says."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from records import PAIR, user

from niwfctl.training.data import read_examples

Write = Callable[..., str]
PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def recipe(heading: str) -> str:
    """The program under a heading."""
    section = PAGE.read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    (program,) = re.findall("```python\n(.*?)```", section, re.S)
    return program


def made(heading: str, source: str, target: Path) -> str:
    """Runs the program under a heading on a file, and tells the path of what it prints."""
    command = [sys.executable, "-c", recipe(heading), source]
    target.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return str(target)


def test_a_long_answer_becomes_pieces_that_continue_one_another(
    write: Write, tmp_path: Path
) -> None:
    paragraphs = [f"{place} " + "word " * 50 + "end" for place in range(5)]
    document = {"prompt": "Tell it.", "completion": "\n\n".join(paragraphs)}
    rows = read_examples(
        [made("Long documents", write("a.jsonl", document, PAIR), tmp_path / "b.jsonl")]
    )
    pieces = ["\n\n".join(paragraphs[start : start + 2]) for start in (0, 2, 4)]
    assert [row.answer for row in rows] == [*pieces, PAIR["completion"]]
    assert rows[0].messages == user("Tell it.") and rows[3].messages == user(PAIR["prompt"])
    assert rows[1].messages == user(f"Tell it.\n\nGo on after:\n\n{pieces[0]}")


def test_columns_of_other_names_are_renamed(write: Write, tmp_path: Path) -> None:
    path = write("a.csv", b'id,Question,Answer\r\n1,"Why, then?",So.\r\n')
    (row,) = read_examples([made("Columns of other names", path, tmp_path / "b.jsonl")])
    assert (row.messages, row.answer) == (user("Why, then?"), "So.")
