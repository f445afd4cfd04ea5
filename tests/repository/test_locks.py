"""Locks: what they keep apart, that they end with their process, and file systems without any."""

import errno
import fcntl
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import KILLED, add_trainings, ended, intact, run_git, start

from niwfctl.errors import Busy, GitError
from niwfctl.git import reflocks
from niwfctl.repository import Repository
from niwfctl.repository.compose import Recipe
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
    assert check_all(repository).damage == ()


def test_threads_keep_each_other_out_and_a_thread_may_nest(fresh: Repository) -> None:
    held, order = threading.Event(), []

    def other() -> None:
        held.wait()
        with fresh.writing():
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with fresh.writing() as alone:
        held.set()
        with fresh.writing() as nested:
            assert nested == alone
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_a_thread_that_waits_too_long_for_another_is_told(
    fresh: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("niwfctl.repository.repository.COMMIT_PATIENCE", 0.1)
    told = []

    def other() -> None:
        try:
            with fresh.writing():
                pass
        except Busy as error:
            told.append(str(error))

    with fresh.writing():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(told) == 1 and "commit lock" in told[0]
    with fresh.writing():
        pass


def test_a_lock_that_git_holds_is_waited_for(tmp_path: Path) -> None:
    held = tmp_path / "HEAD.lock"
    held.touch()
    found: list[bool] = []

    def release() -> None:
        found.append(held.exists())
        held.unlink()

    threading.Timer(0.3, release).start()
    reflocks.await_locks([tmp_path])
    assert found == [True]


def test_a_lock_that_git_still_holds_is_not_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflocks, "PATIENCE", 0.1)
    held = tmp_path / "HEAD.lock"
    held.touch()
    with pytest.raises(Busy, match=r"HEAD\.lock: wait for it to end"):
        reflocks.await_locks([tmp_path])
    assert held.exists()


def test_a_change_that_meets_a_lock_leaves_nothing_staged(
    committed: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflocks, "PATIENCE", 0.1)
    lock = committed.git.folder / "HEAD.lock"
    lock.touch()
    with pytest.raises(Busy):
        committed.rename("apple", "pear")
    assert committed.git.plain("status", "--porcelain") == ""
    lock.unlink()
    hook = committed.git.folder / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\n[ $1 != prepared ]\n")
    hook.chmod(0o755)
    with pytest.raises(GitError):
        committed.rename("apple", "pear")
    assert committed.git.plain("status", "--porcelain") == ""
    hook.unlink()
    committed.rename("apple", "pear")


def test_of_gits_abandoned_locks_only_those_that_it_holds_for_a_write_are_removed(
    tmp_path: Path,
) -> None:
    brief = {"HEAD.lock", "packed-refs.lock", "config.lock", "refs/heads/a/b.lock"}
    long = {"index.lock", "shallow.lock", "gc.pid.lock"}
    (tmp_path / "refs" / "heads" / "a").mkdir(parents=True)
    for name in brief | long:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    reflocks.await_locks([tmp_path])
    assert {name for name in brief | long if (tmp_path / name).exists()} == long


def meanwhile(repository: Repository, *command: str) -> None:
    """Begins a command within the next commit: after its objects are stored, before it is done."""
    log = repository.path.parent / "meanwhile.log"
    niwfctl = shlex.join([sys.executable, "-m", "niwfctl", "-C", str(repository.path), *command])
    hook = repository.git.common / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        "#!/bin/sh\nunset GIT_INDEX_FILE GIT_DIR GIT_WORK_TREE\n"
        f"({niwfctl}; echo $? > {log}.code) > {log} 2>&1 &\nsleep 1.5\n"
    )
    hook.chmod(0o755)


def code_of(repository: Repository) -> int:
    """The exit code of what was begun meanwhile."""
    code = repository.path.parent / "meanwhile.log.code"
    while not (code.is_file() and code.read_text().strip()):
        time.sleep(0.05)
    return int(code.read_text())


def test_gc_within_a_compose_that_approximates_waits_for_it(committed: Repository) -> None:
    meanwhile(committed, "gc", "--keep", "0")
    committed.compose(["apple", "apple"], "both", Recipe(method="svd", rank=2))
    assert code_of(committed) == 0
    repository = intact(committed.path)
    assert set(repository.atlas()) == {"apple", "both"} and check_all(repository).damage == ()


def test_a_checkout_within_a_commit_waits_for_it(trained: Repository) -> None:
    trained.git.plain("branch", "-M", "main")
    trained.git.plain("branch", "side")
    meanwhile(trained, "checkout", "side")
    commit(trained.path, "apple")
    assert code_of(trained) == 0
    repository = intact(trained.path)
    assert repository.git.branch() == "side" and not repository.atlas("side")
    assert set(repository.atlas("main")) == {"apple"}
    assert run_git(trained.path, "status", "--porcelain") == ""


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
    assert check_all(repository).damage == ()
    assert run_git(waiting, "status", "--porcelain") == ""
