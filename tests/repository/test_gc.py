"""gc keeps whatever could still be needed, and removes the rest."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import run_git

from niwfctl.repository import Repository
from niwfctl.repository.upkeep import check_all, collect
from niwfctl.training.checkpoint import load, save
from niwfctl.training.run import Reused

Hold = Callable[[Repository, Path], None]


@pytest.fixture
def left(fresh: Repository, add: Callable[..., str]) -> Repository:
    """`x` on a branch `side` that is not checked out."""
    run_git(fresh.path, "branch", "-M", "main")
    run_git(fresh.path, "checkout", "-q", "-b", "side")
    add(fresh, "x", 0.1)
    run_git(fresh.path, "checkout", "-q", "main")
    return fresh


def own(repository: Repository) -> set[str]:
    return {ref.oid for ref in repository.atlas("side")["x"].objects}


def abandon(repository: Repository) -> None:
    """Takes away the branch, and git's memory of it."""
    run_git(repository.path, "branch", "-D", "side")
    run_git(repository.path, "reflog", "expire", "--expire=now", "--all")


def manifest_and_pointers(repository: Repository, worktree: Path) -> None:
    run_git(worktree, "checkout", "side", "--", "capabilities", "objects")


def a_tag(repository: Repository, other: Path) -> None:
    run_git(repository.path, "tag", "-m", "Kept", "v1", "side")


def a_remote_branch(repository: Repository, other: Path) -> None:
    run_git(repository.path, "update-ref", "refs/remotes/origin/side", "side")


def a_stash(repository: Repository, other: Path) -> None:
    manifest_and_pointers(repository, repository.path)
    run_git(repository.path, "stash", "-q")


def the_index(repository: Repository, other: Path) -> None:
    manifest_and_pointers(repository, repository.path)
    run_git(repository.path, "restore", "--worktree", "--source=HEAD", "objects", "capabilities")


def the_work_tree(repository: Repository, other: Path) -> None:
    manifest_and_pointers(repository, repository.path)
    run_git(repository.path, "restore", "--staged", "objects", "capabilities")


def the_head_of_another_work_tree(repository: Repository, other: Path) -> None:
    run_git(repository.path, "worktree", "add", "-q", "--detach", str(other), "side")


def the_index_of_another_work_tree(repository: Repository, other: Path) -> None:
    run_git(repository.path, "worktree", "add", "-q", "--detach", str(other))
    manifest_and_pointers(repository, other)
    run_git(other, "restore", "--worktree", "--source=HEAD", "objects", "capabilities")


def the_files_of_another_work_tree(repository: Repository, other: Path) -> None:
    run_git(repository.path, "worktree", "add", "-q", "--detach", str(other))
    manifest_and_pointers(repository, other)
    run_git(other, "restore", "--staged", "objects", "capabilities")


@pytest.mark.parametrize(
    "hold",
    [
        a_tag,
        a_remote_branch,
        a_stash,
        the_index,
        the_work_tree,
        the_head_of_another_work_tree,
        the_index_of_another_work_tree,
        the_files_of_another_work_tree,
    ],
)
def test_what_anything_holds_stays(left: Repository, tmp_path: Path, hold: Hold) -> None:
    needed = own(left)
    hold(left, tmp_path / "other")
    abandon(left)
    assert collect(left, 0.0, False).objects == ()
    assert needed <= set(left.store)
    assert not check_all(left).damage


def test_what_the_reflog_holds_stays_and_what_nothing_holds_goes(left: Repository) -> None:
    needed = own(left)
    run_git(left.path, "branch", "-D", "side")
    assert collect(left, 0.0, False).objects == ()
    run_git(left.path, "reflog", "expire", "--expire=now", "--all")
    assert collect(left, 1.0, False).objects == ()  # younger than a day
    assert {oid for oid, _ in collect(left, 0.0, True).objects} == needed <= set(left.store)
    assert {oid for oid, _ in collect(left, 0.0, False).objects} == needed
    assert not needed & set(left.store) and not check_all(left).damage


def test_what_history_holds_stays_though_its_pointers_lie_elsewhere_too(
    committed: Repository,
) -> None:
    needed = {ref.oid for ref in committed.capability("apple").objects}
    path = committed.path
    (path / "backup").mkdir()  # git comes to it first
    for number, oid in enumerate(sorted(needed)):
        pointer = path / "objects" / f"{oid}.safetensors"
        (path / "backup" / f"{number}.txt").write_bytes(pointer.read_bytes())
    run_git(path, "add", "backup")
    run_git(path, "commit", "-q", "-m", "Copies of pointers")
    committed.remove("apple")
    assert collect(committed, 0.0, False).objects == ()
    assert needed <= set(committed.store) and not check_all(committed).damage


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def nonsense(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"nonsense")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


@pytest.mark.parametrize("spoil", [nonsense, a_folder])
def test_a_corrupt_object_is_kept_from_when_it_was_put_aside(
    committed: Repository, spoil: Callable[[Path], None]
) -> None:
    path = committed.store.path(committed.capability("apple").regions[0].region.oid)
    spoil(path)
    age(path, 60)
    assert not committed.verify().ok
    kept = committed.private / "quarantine" / path.name
    collect(committed, 14.0, False)
    assert kept.exists() and not path.exists()
    age(kept, 15)
    collect(committed, 14.0, False)
    assert not kept.exists()


def test_what_killed_commands_left_goes_once_it_is_old(fresh: Repository) -> None:
    old, young = (fresh.private / "tmp" / name for name in ("old", "young"))
    for folder in (old, young):
        (folder / "objects").mkdir(parents=True)
        (folder / "objects" / "0").write_bytes(bytes(1000))
    age(old, 15)
    assert collect(fresh, 14.0, True).size == 1000 and old.exists()
    assert collect(fresh, 14.0, False).size == 1000
    assert collect(fresh, 0.0, False).size == 0  # a command that needs no lock may be using it
    assert young.exists() and not old.exists()


@pytest.mark.parametrize("undone", [False, True], ids=["waiting", "undone"])
def test_bases_that_a_training_reuses_stay_until_it_is_gone(
    left: Repository, train: Callable[..., None], undone: bool
) -> None:
    basis = left.atlas("side")["x"].regions[0].bases[0]
    train(left, "y", shift=0.3)
    checkpoint = left.trainings.checkpoint("y")
    run, tensors = load(checkpoint)
    reused = (Reused(oid=basis.oid, size=basis.size, of="x", scale=1.0),)
    save(checkpoint, run.model_copy(update={"reused": reused}), tensors)
    if undone:
        with left.operations.recording("train y") as operation:
            left.operations.set_aside(operation, "y")
    needed = own(left)
    abandon(left)
    assert {oid for oid, _ in collect(left, 0.0, False).objects} == needed - {basis.oid}
    assert collect(left, 0.0, False).size == (basis.size if undone else 0)  # the undo is forgotten
