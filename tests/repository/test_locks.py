"""Locks: what they keep apart, that they end with their process, and file systems without any."""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import KILLED, add_trainings, ended, intact, run_git, start

from niwfctl.errors import Busy
from niwfctl.repository import Repository
from niwfctl.repository.lock import lock
from niwfctl.repository.upkeep import check_all, collect

NAMES = [f"writer-{number}" for number in range(8)]


def ignored(descriptor: int, operation: int) -> None:
    """flock as some network file systems have it: it says yes to everyone."""


def refused(descriptor: int, operation: int) -> None:
    """flock as others have it."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.fixture(params=[fcntl.flock, ignored, refused], ids=["locks", "ignored", "refused"])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.setattr(fcntl, "flock", request.param)
    return request.param


@pytest.fixture
def waiting(trained: Repository) -> Path:
    """A repository with finished trainings."""
    add_trainings(trained, "apple", NAMES)
    return trained.path


def commit(path: Path, name: str) -> None:
    Repository.open(path).commit([name], f"Add {name}")


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"

    def hold() -> None:
        with lock(path, "test"):
            (tmp_path / "held").touch()
            time.sleep(60)

    child = start(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(Busy, match=rf"the test lock \(process {child} on "), lock(path, "test"):
        pass
    os.kill(child, signal.SIGKILL)
    assert ended(child) == KILLED
    with lock(path, "test") as alone:
        assert alone


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"

    def hold() -> None:
        with lock(path, "test"):
            (tmp_path / "held").touch()
            time.sleep(0.3)

    child = start(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with lock(path, "test", patience=30):
        pass
    assert ended(child) == 0


def test_a_lock_says_whether_it_keeps_others_out(tmp_path: Path, flock: Callable) -> None:
    with lock(tmp_path / "x.lock", "test") as alone:
        assert alone == (flock not in (ignored, refused))


def test_writers_at_once_all_succeed_with_or_without_locks(waiting: Path, flock: Callable) -> None:
    before = int(run_git(waiting, "rev-list", "--count", "HEAD"))
    children = [start(lambda name=name: commit(waiting, name)) for name in NAMES]
    assert [ended(child) for child in children] == [0] * len(NAMES)
    repository = intact(waiting)
    assert set(repository.atlas()) == set(NAMES)
    assert int(run_git(waiting, "rev-list", "--count", "HEAD")) == before + len(NAMES)
    assert check_all(repository)[1] == []


def test_gc_beside_commits_loses_nothing_with_or_without_locks(
    waiting: Path, flock: Callable
) -> None:
    repository = Repository.open(waiting)
    repository.commit([NAMES[0]], "To be undone")
    repository.operations.undo()
    run_git(waiting, "reflog", "expire", "--expire=now", "--all")
    for oid in repository.store:  # commits will find some of these old objects there
        os.utime(repository.store.path(oid), (0, 0))

    def clean() -> None:
        while not (waiting.parent / "committed").exists():
            collect(Repository.open(waiting), 0.0, False)

    cleaning = start(clean)
    assert [ended(start(lambda name=name: commit(waiting, name))) for name in NAMES] == [0] * 8
    (waiting.parent / "committed").touch()
    assert ended(cleaning) == 0
    repository = intact(waiting)
    assert set(repository.atlas()) == set(NAMES)
    assert check_all(repository)[1] == []
    assert run_git(waiting, "status", "--porcelain") == ""
