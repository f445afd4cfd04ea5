"""Runs docs/tutorial.md on the embedded backbone, and inserts what its commands print.

python docs/make_tutorial.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from niwfctl.backbone.cache import cache_folder

FILE = Path(__file__).with_name("tutorial.md")
HEAD, TAIL, WIDTH = 9, 2, 100  # lines shown of an answer, and their width


def commands(page: str) -> list[str]:
    """The commands after each `$` of the page's consoles, in order."""
    return [
        line.removeprefix("$ ")
        for console in re.findall(r"(?ms)^```console\n(.*?)^```$", page)
        for line in console.splitlines()
        if line.startswith("$ ")
    ]


def files(page: str) -> dict[str, str]:
    """The files that the page tells its reader to save, by name."""
    return dict(re.findall(r"(?ms)^Save this as `(\S+?)`[^\n]*\n\n```python\n(.*?)^```$", page))


def filled(page: str, answers: Iterable[str]) -> str:
    """The page with these answers under its commands."""
    given = iter(answers)

    def fill(console: re.Match[str]) -> str:
        asked = [line for line in console[2].splitlines() if line.startswith("$ ")]
        body = "".join(f"{line}\n{shortened(next(given))}" for line in asked)
        return console[1] + body + console[3]

    return re.sub(r"(?ms)^(```console\n)(.*?)^(```)$", fill, page)


def shortened(answer: str) -> str:
    """The beginning and the end of an answer, each line cut to WIDTH."""
    lines = [line.rstrip() for line in answer.rstrip().splitlines()]
    if len(lines) > HEAD + TAIL + 1:
        lines = [*lines[:HEAD], "…", *lines[-TAIL:]]
    cut = (line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines)
    return "".join(f"{line}\n" for line in cut)


def follow(page: str, home: Path) -> Iterator[str]:
    """Runs every command as a reader would; yields what each prints on standard output."""
    environment = os.environ | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "90",
        "NIWFCTL_CACHE": str(cache_folder()),
        "GIT_CONFIG_GLOBAL": os.environ.get("GIT_CONFIG_GLOBAL") or str(Path.home() / ".gitconfig"),
    }
    for name, content in files(page).items():
        file = home / "tutorial" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content, "utf-8")
    here = FILE.parents[1]
    for command in commands(page):
        print("$", command, file=sys.stderr, flush=True)
        done = subprocess.run(
            ["bash", "-c", f"{command} && pwd >{home}/.here"],
            cwd=here,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        here = Path((home / ".here").read_text().rstrip("\n"))
        yield done.stdout.replace(str(home), "~")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = FILE.read_text("utf-8")
        FILE.write_text(filled(text, list(follow(text, Path(folder)))), "utf-8")
