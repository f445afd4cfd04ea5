"""Results as JSON lines, one a commit of a method; and the states to go on from."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent.parent
COMPUTED_BY = [  # what figures depend on; not what draws tables of them
    "niwfctl",
    "store",
    "benchmarks/rivals",
    "benchmarks/common.py",
    "examples/stdlib_data.py",
]


class MixedResults(Exception):
    """Results of different commits are in one folder."""


@dataclass(frozen=True)
class Key:
    """What one run is."""

    method: str
    sequence: str
    seed: int
    steps: int

    def __str__(self) -> str:
        return f"{self.method}-{self.sequence}-{self.seed}-{self.steps}"


class Results:
    """A folder of results, all of one commit."""

    def __init__(self, folder: Path, commit: str | None = None) -> None:
        """
        Args:
            commit: of the code that is going to add to them; None to only read.

        Raises:
            MixedResults: there are results of another commit, or of several.
        """
        self.folder, self.file = folder, folder / "continual.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.records = _read(self.file)
        commits = {record["commit"] for record in self.records} | ({commit} if commit else set())
        if len(commits) > 1:
            raise MixedResults(
                f"{self.file} would mix results of the commits {', '.join(sorted(commits))}: give "
                "each commit a folder of its own"
            )
        self.commit = next(iter(commits), None)

    def of(self, key: Key) -> list[dict]:
        """The records of a run, in order."""
        found = [r for r in self.records if all(r[k] == v for k, v in vars(key).items())]
        return sorted(found, key=lambda record: record["row"])

    def append(self, key: Key, record: dict) -> None:
        """Adds the record of a run's next commit, and drops the state that it needs no more."""
        record = {"commit": self.commit, **vars(key), **record}
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)
        if record["row"]:
            self._state(key, record["row"] - 1).unlink(missing_ok=True)
        if record["last"]:
            self._state(key, record["row"]).unlink(missing_ok=True)

    def keep(self, key: Key, row: int, state: dict[str, Tensor]) -> None:
        """Keeps what a run needs to go on after a commit."""
        path = self._state(key, row)
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)

    def kept(self, key: Key, row: int) -> dict[str, Tensor]:
        """What `keep` kept."""
        return torch.load(self._state(key, row), weights_only=True)

    def _state(self, key: Key, row: int) -> Path:
        return self.folder / "states" / f"{key}-{row}.pt"


def code_commit() -> str:
    """The last commit that changed anything figures depend on.

    Raises:
        RuntimeError: some of it is not committed.
    """
    changed = _git("status", "--porcelain", "--", *COMPUTED_BY)
    if changed:
        raise RuntimeError(f"commit the code first, results name the commit they are of: {changed}")
    return _git("log", "-1", "--format=%h", "--abbrev=12", "--", *COMPUTED_BY)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _read(file: Path) -> list[dict]:
    """Every whole line; one that a kill cut off is dropped from the file."""
    if not file.exists():
        return []
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
