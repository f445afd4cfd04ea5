"""Results as JSON lines, one per commit of a method; and the states to resume from."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent.parent
COMPUTED_BY = [  # what figures depend on; not what makes tables of them
    "niwfctl",
    "store",
    "benchmarks/rivals",
    "benchmarks/common.py",
    "examples/stdlib_data.py",
]


class MixedResults(Exception):
    """Results of different commits or backbones are in one folder."""


class UncommittedCode(Exception):
    """Results could not name the code that computed them."""


@dataclass(frozen=True)
class Origin:
    """What computed results: the commit of the code, and the backbone's identity."""

    commit: str
    backbone: str

    def __str__(self) -> str:
        return f"commit {self.commit} on {self.backbone[:19]}"

    @classmethod
    def of(cls, record: dict) -> Origin:
        """The origin of a record."""
        return cls(record["commit"], record["backbone"])


@dataclass(frozen=True)
class Key:
    """What identifies a run."""

    method: str
    sequence: str
    seed: int
    steps: int

    def __str__(self) -> str:
        return f"{self.method}-{self.sequence}-{self.seed}-{self.steps}"


class Results:
    """A folder of results, all of one origin."""

    def __init__(self, folder: Path, origin: Origin | None = None) -> None:
        """
        Args:
            origin: of results to be added; None to only read.

        Raises:
            MixedResults: there are results of another origin, or of several.
        """
        self.folder, self.file = folder, folder / "continual.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.records = _read(self.file)
        found = {Origin.of(record) for record in self.records} | ({origin} if origin else set())
        if found:
            self.origin = only(found)

    def of(self, key: Key) -> list[dict]:
        """The records of a run, in order."""
        found = [r for r in self.records if all(r[k] == v for k, v in vars(key).items())]
        return sorted(found, key=lambda record: record["row"])

    def append(self, key: Key, record: dict) -> None:
        """Adds the record of a run's next commit, and drops the state that is no longer needed."""
        record = {**vars(self.origin), **vars(key), **record}
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)
        if record["row"]:
            self._state(key, record["row"] - 1).unlink(missing_ok=True)
        if record["last"]:
            self._state(key, record["row"]).unlink(missing_ok=True)

    def keep(self, key: Key, row: int, state: dict[str, Tensor]) -> None:
        """Keeps what a run needs to resume after a commit."""
        path = self._state(key, row)
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)

    def kept(self, key: Key, row: int) -> dict[str, Tensor]:
        """What `keep` kept."""
        return torch.load(self._state(key, row), weights_only=True)

    def _state(self, key: Key, row: int) -> Path:
        return self.folder / "states" / f"{key}-{row}.pt"


def only(origins: Iterable[Origin]) -> Origin:
    """The one origin that all results share.

    Raises:
        MixedResults: they have none, or several.
    """
    found = sorted(set(map(str, origins)))
    if len(found) != 1:
        raise MixedResults(
            f"expected results of one commit and one backbone, not of {', '.join(found) or 'none'}:"
            " give each a folder of its own"
        )
    return next(iter(origins))


def code_commit() -> str:
    """The last commit that changed anything figures depend on.

    Raises:
        UncommittedCode: some of it is not committed.
    """
    changed = _git("status", "--porcelain", "--", *COMPUTED_BY)
    if changed:
        raise UncommittedCode(f"commit the code first, since results name its commit: {changed}")
    return _git("log", "-1", "--format=%h", "--abbrev=12", "--", *COMPUTED_BY)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _read(file: Path) -> list[dict]:
    """Every complete line; one cut off by a kill is dropped from the file."""
    if not file.exists():
        return []
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
