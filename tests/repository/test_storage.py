"""Storage: what is equal is kept once, and gc frees what nothing reaches and no more."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from histories import cut, revise, stored

from niwfctl.repository import Repository
from niwfctl.repository.upkeep import check_all, collect

CAPABILITIES, REVISIONS = 20, 3


def test_each_basis_of_a_long_history_is_held_once_and_gc_frees_exactly_what_is_unreachable(
    fresh: Repository, add: Callable[..., str]
) -> None:
    coordinates = fresh.config.field.coordinates
    commits = []
    for number in range(CAPABILITIES):
        commits.append(add(fresh, f"c{number}", number))
        commits += [revise(fresh, f"c{number}", revision) for revision in range(1, REVISIONS)]
    entries = [
        capability.regions[0] for commit in commits for capability in fresh.atlas(commit).values()
    ]
    bases = {ref.oid: ref.size for entry in entries for ref in entry.bases}
    rest = {entry.region.oid: entry.region.size for entry in entries}
    assert len(bases) == CAPABILITIES * (2 + REVISIONS - 1)  # one of two changes each time
    assert set(fresh.store) == {*bases, *rest, coordinates}
    assert stored(fresh.store) == sum((bases | rest).values()) + fresh.store.size(coordinates)

    cut(fresh)
    used = {ref.oid for capability in fresh.atlas().values() for ref in capability.objects}
    unreachable = (bases | rest).keys() - used
    assert {oid for oid, _ in collect(fresh, 0.0, dry_run=False).objects} == unreachable
    assert set(fresh.store) == {*used, coordinates}
    assert fresh.verify().ok and check_all(fresh).damage == ()


def test_verify_hashes_an_object_once_and_asks_git_no_more_for_more_of_them(
    fresh: Repository, add: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(fresh, "apple")
    names, digest = [], hashlib.file_digest

    def noting(file: IO[bytes], kind: str) -> object:
        names.append(Path(file.name).name)
        return digest(file, kind)

    def processes() -> int:
        trace = tmp_path / "trace"
        monkeypatch.setenv("GIT_TRACE", str(trace))
        assert fresh.verify().ok
        monkeypatch.delenv("GIT_TRACE")
        count = trace.read_text().count("built-in: git")
        trace.unlink()
        return count

    before = processes()
    for name in ("pear", "plum"):
        fresh.compose(["apple"], name)
    add(fresh, "fig", 0.1)
    monkeypatch.setattr(hashlib, "file_digest", noting)
    assert processes() == before
    assert len(names) == len(set(names)) == len(list(fresh.store))
