"""G5: a kill at any instant, a full disk, or several writers leave every commit intact."""

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import git
import pytest
from faults import KILLED, add_trainings, ended, intact, run_git, settled, start

from niwfctl.errors import Busy, GitError, NiwfError, StorageError, UsageError
from niwfctl.git import reflocks
from niwfctl.repository import Repository
from niwfctl.training import checkpoint

NAMES = {"apple", "plum", "pear"}
WRITING = {"hash-object", "read-tree", "update-index", "write-tree", "commit-tree", "update-ref"}
PAGE = 4096


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory, _trained: Path) -> Path:
    """A repository with `apple` committed, and finished trainings of `plum` and `pear`."""
    path = shutil.copytree(_trained, tmp_path_factory.mktemp("waiting") / "repository")
    repository = Repository.open(path)
    add_trainings(repository, "apple", ["plum", "pear"])
    repository.commit(["apple"], "Apples")
    return path


def kill_at(moment: int, *more: str) -> None:
    """Makes this process kill itself around one of its steps towards the disk.

    Args:
        more: names of further calls of `os` that are such steps.
    """
    left = moment

    def pass_by() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(call: Callable, counts: Callable[..., bool] = lambda *_: True) -> Callable:
        def wrapped(*arguments: object, **options: object) -> object:
            if not counts(*arguments):
                return call(*arguments, **options)
            pass_by()
            result = call(*arguments, **options)
            if call is not fsync:  # after a kill, what was synced looks like what was not
                pass_by()
            return result

        return wrapped

    fsync = os.fsync
    os.fsync, os.replace, os.rename = map(deadly, (fsync, os.replace, os.rename))
    for name in more:
        setattr(os, name, deadly(getattr(os, name)))
    git.Git.execute = deadly(git.Git.execute, lambda _, command: bool(WRITING & set(command)))


def test_a_kill_at_any_step_of_a_commit_leaves_the_old_state_or_the_new(
    waiting: Path, tmp_path: Path
) -> None:
    old = Repository.open(waiting).git.head()
    for moment in count(1):
        path = shutil.copytree(waiting, tmp_path / str(moment))

        def commit(path: Path = path, moment: int = moment) -> None:
            kill_at(moment)
            Repository.open(path).commit([], "Fruit")

        code = ended(start(commit))
        assert code in (0, KILLED)
        repository = intact(path)
        if repository.git.head() == old:
            assert set(repository.atlas()) == {"apple"}
            assert {run.name for run in repository.uncommitted()} == {"plum", "pear"}
            repository.commit([], "Fruit")
        else:
            assert repository.git.resolve("HEAD~1") == old
            assert set(repository.atlas()) == NAMES
            with pytest.raises(NiwfError, match="nothing to commit"):
                repository.commit([], "Fruit")
        settled(path, NAMES)
        shutil.rmtree(path)
        if code == 0:
            break
    assert moment > 50


def test_a_kill_at_any_step_of_a_fast_forward_lets_it_be_done_again(
    waiting: Path, tmp_path: Path
) -> None:
    ready = shutil.copytree(waiting, tmp_path / "ready")
    repository = Repository.open(ready)
    (ready / "README").write_text("old\n")
    run_git(ready, "add", "README")
    run_git(ready, "commit", "-q", "-m", "Readme")
    main = repository.git.branch()
    run_git(ready, "checkout", "-q", "-b", "side")
    (ready / "README").write_text("new\n")
    run_git(ready, "commit", "-q", "-a", "-m", "Change")
    repository.commit([], "Fruit")
    run_git(ready, "checkout", "-q", main)
    for moment in count(1):
        path = shutil.copytree(ready, tmp_path / str(moment))

        def merge(path: Path = path, moment: int = moment) -> None:
            kill_at(moment)
            Repository.open(path).merge("side")

        code = ended(start(merge))
        assert code in (0, KILLED)
        if code == KILLED:
            Repository.open(path).merge("side")
        settled(path, NAMES)
        assert (path / "README").read_text() == "new\n"
        shutil.rmtree(path)
        if code == 0:
            break
    assert moment > 10


def committed_fruit(repository: Repository) -> None:
    repository.commit([], "Fruit")


def taken_back_fruit(repository: Repository) -> None:
    repository.commit([], "Fruit")
    repository.operations.undo()


def trained_anew(repository: Repository) -> None:
    path = repository.trainings.checkpoint("plum")
    run, tensors = checkpoint.load(path)
    with repository.operations.recording_training("plum"):
        checkpoint.save(path, run, {key: value + 1 for key, value in tensors.items()})


def renamed(repository: Repository) -> None:
    repository.rename("plum", "jam")


@pytest.mark.parametrize("work", [committed_fruit, taken_back_fruit, trained_anew, renamed])
def test_a_kill_at_any_step_of_an_undo_loses_no_training_and_another_undo_goes_on(
    waiting: Path, tmp_path: Path, work: Callable[[Repository], None]
) -> None:
    ready = Repository.open(shutil.copytree(waiting, tmp_path / "ready"))
    work(ready)
    done = state(ready)
    undone = Repository.open(shutil.copytree(ready.path, tmp_path / "undone"))
    undone.operations.undo()
    known = [done, state(undone)]
    if work is renamed:  # no branch moves, so it may be there under both names
        known.append((done[0], done[1] | known[1][1]))
    for moment in count(1):
        path = shutil.copytree(ready.path, tmp_path / str(moment))

        def undo(path: Path = path, moment: int = moment) -> None:
            kill_at(moment, "link")
            Repository.open(path).operations.undo()

        code = ended(start(undo))
        assert code in (0, KILLED)
        repository = Repository.open(path)
        assert state(repository) in known, moment
        if len(repository.operations.entries()) == len(ready.operations.entries()):
            repository.operations.undo()
        assert state(repository) == state(undone), moment
        assert intact(path).changes() == []
        repository.operations.undo()
        assert state(repository) == done, moment
        shutil.rmtree(path)
        if code == 0:
            break
    assert moment > 20


def state(repository: Repository) -> tuple[str | None, dict[str, bytes]]:
    """HEAD, and the trainings that wait to be committed."""
    names = [run.name for run in repository.uncommitted()]
    checkpoint = repository.trainings.checkpoint
    return repository.git.head(), {name: checkpoint(name).read_bytes() for name in names}


@pytest.mark.parametrize("again", [False, True])
def test_a_kill_at_any_step_of_saving_leaves_the_old_checkpoint_or_the_new(
    waiting: Path, tmp_path: Path, again: bool
) -> None:
    run, tensors = checkpoint.load(Repository.open(waiting).trainings.checkpoint("plum"))
    old, new = tmp_path / "old", tmp_path / "new"
    checkpoint.save(old, run.model_copy(update={"step": 1}), {k: v + 1 for k, v in tensors.items()})
    checkpoint.save(new, run, tensors)
    for moment in count(1):
        path = tmp_path / str(moment) / "checkpoint"
        if again:
            path.parent.mkdir()
            shutil.copyfile(old, path)

        def save(path: Path = path, moment: int = moment) -> None:
            kill_at(moment)
            checkpoint.save(path, run, tensors)

        code = ended(start(save))
        assert code in (0, KILLED)
        if again or path.exists():
            checkpoint.load(path)
            assert path.read_bytes() in (old.read_bytes(), new.read_bytes())
        if code == 0:
            break
    assert path.read_bytes() == new.read_bytes()
    assert moment > 4


def test_a_git_killed_while_it_moves_the_branch_loses_nothing_and_keeps_nobody_out(
    waiting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(waiting, tmp_path / "repository")
    repository = Repository.open(path)
    old = repository.git.head()
    hook = path / ".git" / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nif [ $1 = prepared ]; then kill -9 $PPID; fi\n")
    hook.chmod(0o755)
    with pytest.raises(GitError):
        repository.commit([], "Fruit")
    assert intact(path).git.head() == old
    hook.unlink()
    assert [lock for lock in (path / ".git").rglob("*.lock") if "niwf" not in lock.parts]
    monkeypatch.setattr(reflocks, "PATIENCE", 0.2)
    with pytest.raises(Busy, match="if git was killed, remove the file"):
        repository.commit([], "Fruit")
    monkeypatch.setattr(reflocks, "ABANDONED", 0.0)
    repository.commit([], "Fruit")
    settled(path, NAMES)


def small_disk(folder: Path) -> None:
    """Gives this process, and no other, a disk of 64 MB at `folder`."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10020000):  # new user and mount namespaces
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", bytes(folder), b"tmpfs", 0, b"size=64m"):
        raise OSError(ctypes.get_errno(), "mount")


def test_a_full_disk_at_any_write_of_a_commit_loses_nothing(waiting: Path, tmp_path: Path) -> None:
    path, ballast = tmp_path / "repository", tmp_path / "ballast"

    def run_out_of_space() -> None:
        small_disk(tmp_path)
        for free in count(0, PAGE):
            repository = Repository.open(shutil.copytree(waiting, path))
            old = repository.git.head()
            space = os.statvfs(tmp_path)
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_bsize - free)
            try:
                repository.commit([], "Fruit")
                break
            except StorageError:
                repository = intact(path)
            assert repository.git.head() == old
            assert {run.name for run in repository.uncommitted()} == {"plum", "pear"}
            ballast.unlink()
            repository.commit([], "Fruit")
            settled(path, NAMES)
            shutil.rmtree(path)
        settled(path, NAMES)
        assert free > 10 * PAGE

    if ended(start(lambda: small_disk(tmp_path))):
        pytest.skip("this machine lets no process mount a disk of its own")
    assert ended(start(run_out_of_space)) == 0


def test_a_disk_that_refuses_any_write_to_be_durable_loses_nothing(
    waiting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    for moment in count(1):
        path = shutil.copytree(waiting, tmp_path / str(moment))
        repository = Repository.open(path)
        calls = count(1)

        def full(descriptor: int, calls: Iterator[int] = calls, moment: int = moment) -> None:
            if next(calls) == moment:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                repository.commit([], "Fruit")
            except StorageError:
                assert set(intact(path).atlas()) == {"apple"}
                patch.undo()
                repository.commit([], "Fruit")
        settled(path, NAMES)
        shutil.rmtree(path)
        if next(calls) <= moment:
            break
    assert moment > 20


def test_32_writers_at_once_all_succeed(waiting: Path, tmp_path: Path) -> None:
    path = shutil.copytree(waiting, tmp_path / "repository")
    names = [f"writer-{number}" for number in range(32)]
    add_trainings(Repository.open(path), "plum", names)
    Repository.open(path).commit(["plum", "pear"], "Fruit")
    before = int(run_git(path, "rev-list", "--count", "HEAD"))
    children = [
        start(lambda name=name: Repository.open(path).commit([name], f"Add {name}"))
        for name in names
    ]
    assert [ended(child) for child in children] == [0] * 32
    settled(path, NAMES | set(names))
    assert int(run_git(path, "rev-list", "--count", "HEAD")) == before + 32


def test_plain_commits_racing_with_ours_lose_nothing(waiting: Path, tmp_path: Path) -> None:
    path = shutil.copytree(waiting, tmp_path / "repository")
    names = [f"racer-{number}" for number in range(6)]
    add_trainings(Repository.open(path), "plum", names)
    Repository.open(path).commit(["plum", "pear"], "Fruit")

    def ours() -> None:
        for name in names:
            for _ in range(20):  # a plain commit may be quicker, or take along what is staged
                if name not in Repository.open(path).atlas():
                    with suppress(GitError, UsageError):
                        Repository.open(path).commit([name], f"Add {name}")

    child = start(ours)
    notes = [f"note-{number}.txt" for number in range(20)]
    for note in notes:
        (path / note).write_text(note)
        command = f"git add {note} && git commit --quiet -m {note}"
        for _ in range(50):  # git gives up where someone else was quicker
            if not subprocess.run(command, cwd=path, shell=True, capture_output=True).returncode:
                break
        time.sleep(0.05)
    assert ended(child) == 0
    settled(path, NAMES | set(names))
    assert set(notes) <= set(run_git(path, "ls-tree", "--name-only", "HEAD").splitlines())


def test_a_plain_add_under_way_during_a_commit_loses_nothing(waiting: Path, tmp_path) -> None:
    path = shutil.copytree(waiting, tmp_path / "repository")
    begun, go = tmp_path / "begun", tmp_path / "go"
    (path / "note.txt").write_text("A note\n")
    (path / ".git" / "info").mkdir(exist_ok=True)
    (path / ".git" / "info" / "attributes").write_text("note.txt filter=slow\n")
    slow = f"filter.slow.clean=touch {begun}; while [ ! -e {go} ]; do sleep 0.02; done; cat"
    adding = subprocess.Popen(["git", "-C", path, "-c", slow, "add", "note.txt"])
    while not begun.exists():
        assert adding.poll() is None
        time.sleep(0.01)
    committing = start(lambda: Repository.open(path).commit([], "Fruit"))
    time.sleep(0.7)  # git holds the index still, while ours goes as far as it can
    go.touch()
    assert adding.wait() == 0
    if ended(committing):
        Repository.open(path).commit([], "Fruit")
    run_git(path, "commit", "-m", "A note")
    settled(path, NAMES)
    assert "note.txt" in run_git(path, "ls-tree", "--name-only", "HEAD")
