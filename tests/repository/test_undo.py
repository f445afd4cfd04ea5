"""Every operation is undone, also an undo; and every one asks and tells git's hooks."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK

from niwfctl.errors import (
    Busy,
    GitError,
    NiwfError,
    TrainingError,
    TrainingInterrupted,
    UsageError,
)
from niwfctl.repository import Repository
from niwfctl.repository.upkeep import collect

Add = Callable[..., str]


def hook(repository: Repository, name: str, script: str) -> Path:
    """Installs a hook; returns the file it may write to."""
    path = repository.git.folder / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    witness = repository.path.parent / f"{name}.txt"
    path.write_text(f"#!/bin/sh\n{script.format(witness=witness)}\n")
    path.chmod(0o755)
    return witness


def committing(repository: Repository, add: Add) -> None:
    add(repository, "new", 0.3)


def merging(repository: Repository, add: Add) -> None:
    repository.merge("side")


def fast_forwarding(repository: Repository, add: Add) -> None:
    repository.merge("ahead")


def removing(repository: Repository, add: Add) -> None:
    repository.remove("x")


def renaming(repository: Repository, add: Add) -> None:
    repository.rename("x", "z")


def rolling_back(repository: Repository, add: Add) -> None:
    repository.rollback(to="HEAD~1")


@pytest.mark.parametrize(
    "work", [committing, merging, fast_forwarding, removing, renaming, rolling_back]
)
def test_any_operation_is_undone_and_its_undoing_undone(
    two: Repository, add: Add, work: Callable[[Repository, Add], None]
) -> None:
    start, branch = two.git.head(), two.git.branch()
    two.git.plain("checkout", "--quiet", "-b", "side", "HEAD~1")
    add(two, "s", 0.4)
    two.git.plain("checkout", "--quiet", "-b", "ahead", start)
    add(two, "a", 0.5)
    two.git.checkout(branch)
    (two.path / "note.txt").write_text("mine\n")
    work(two, add)
    done, atlas = two.git.head(), two.atlas()
    trainings = [run.name for run in two.uncommitted()]
    for _ in range(2):
        two.operations.undo()
        assert two.git.head() == start and two.changes() == []
        two.operations.undo()
        assert two.git.head() == done and two.atlas() == atlas and two.changes() == []
        assert [run.name for run in two.uncommitted()] == trainings
    *_, undone, redone = [one.command for one in two.operations.entries()]
    assert undone == f"undo of {redone.removeprefix('redo of ')}" != redone
    assert (two.path / "note.txt").read_text() == "mine\n"
    assert two.verify().ok


def test_a_training_is_undone_and_brought_back(trained: Repository, data: Path) -> None:
    trained.train("plum", [data], QUICK)
    before = trained.trainings.checkpoint("plum").read_bytes()
    trained.operations.undo()
    assert [run.name for run in trained.uncommitted()] == ["apple"]
    trained.operations.undo()
    assert [run.name for run in trained.uncommitted()] == ["apple", "plum"]
    assert trained.trainings.checkpoint("plum").read_bytes() == before


def test_a_training_thrown_away_by_restart_is_brought_back(trained: Repository, data: Path) -> None:
    before = trained.trainings.checkpoint("apple").read_bytes()
    trained.train("apple", [data], QUICK.model_copy(update={"seed": 1}), restart=True)
    assert trained.trainings.checkpoint("apple").read_bytes() != before
    trained.operations.undo()
    assert trained.trainings.checkpoint("apple").read_bytes() == before


def test_a_training_that_went_on_is_taken_back_to_where_it_had_stopped(
    trained: Repository, data: Path
) -> None:
    with pytest.raises(TrainingInterrupted):
        trained.train("plum", [data], QUICK, stop=lambda: True)
    before = trained.trainings.checkpoint("plum").read_bytes()
    trained.train("plum", resume=True)
    trained.operations.undo()
    assert trained.trainings.checkpoint("plum").read_bytes() == before
    assert trained.train("plum", resume=True).finished
    assert [len(one.removed) for one in trained.operations.entries()] == [0, 0, 1, 1, 1]


def test_a_training_that_fails_is_no_operation_and_costs_none(
    trained: Repository, data: Path
) -> None:
    before, done = trained.trainings.checkpoint("apple").read_bytes(), trained.operations.entries()
    hopeless = QUICK.model_copy(update={"lr": 1e30})
    with pytest.raises(TrainingError):
        trained.train("apple", [data], hopeless, restart=True)
    assert trained.trainings.checkpoint("apple").read_bytes() == before
    assert trained.operations.entries() == done


def test_each_work_tree_undoes_what_was_done_in_it(
    trained: Repository, data: Path, tmp_path: Path
) -> None:
    trained.git.plain("worktree", "add", "-q", str(tmp_path / "other"))
    other = Repository.open(tmp_path / "other")
    with pytest.raises(NiwfError, match="nothing to undo"):
        other.operations.undo()
    before = trained.trainings.checkpoint("apple").read_bytes()
    trained.train("apple", [data], QUICK.model_copy(update={"seed": 1}), restart=True)
    other.train("plum", [data], QUICK)
    trained.operations.undo()
    assert [run.name for run in trained.uncommitted()] == ["apple", "plum"]
    assert trained.trainings.checkpoint("apple").read_bytes() == before
    other.operations.undo()
    assert [run.name for run in trained.uncommitted()] == ["apple"]
    trained.operations.undo()
    assert trained.trainings.checkpoint("apple").read_bytes() != before
    other.operations.undo()
    assert [run.name for run in other.uncommitted()] == ["apple", "plum"]


def test_what_an_older_version_logged_is_undone_in_any_work_tree(
    trained: Repository, tmp_path: Path
) -> None:
    log = trained.private / "operations" / "log.json"
    entries = json.loads(log.read_bytes())
    for entry in entries:
        del entry["worktree"]
    log.write_text(json.dumps(entries))
    trained.git.plain("worktree", "add", "-q", str(tmp_path / "other"))
    Repository.open(tmp_path / "other").operations.undo()
    assert trained.uncommitted() == []


def test_a_training_under_way_cannot_be_undone(trained: Repository, data: Path) -> None:
    refusals = []

    def stop() -> bool:
        if trained.operations.entries()[-1].added == ["plum"]:
            with pytest.raises(Busy, match="training lock"):
                Repository.open(trained.path).operations.undo()
            refusals.append(True)
        return False

    with pytest.raises(TrainingInterrupted):
        trained.train("plum", [data], QUICK, stop=lambda: True)
    trained.train("plum", resume=True, stop=stop)
    assert refusals


def test_what_gc_forgets_can_no_longer_be_undone_and_takes_no_room(
    trained: Repository, data: Path
) -> None:
    trained.train("apple", [data], QUICK, restart=True)
    aside = trained.operations.folder_of(trained.operations.entries()[-1])
    room = sum(file.stat().st_size for file in aside.rglob("*") if file.is_file())
    would, done = (collect(trained, 0.0, dry_run) for dry_run in (True, False))
    assert would == done and done.operations > 0 and done.size == room > 0
    with pytest.raises(NiwfError, match="nothing to undo"):
        trained.operations.undo()
    assert [path.name for path in (trained.private / "operations").iterdir()] == ["log.json"]


def test_undo_is_refused_where_it_would_lose_something(
    two: Repository, add: Add, train: Callable[..., None]
) -> None:
    branch = two.git.branch()
    train(two, "y", shift=0.7)
    with pytest.raises(UsageError, match="newer training of 'y'"):
        two.operations.undo()
    shutil.rmtree(two.trainings.root / "y")
    two.git.plain("checkout", "--quiet", "-b", "elsewhere")
    with pytest.raises(UsageError, match=f"run `niwfctl checkout {branch}` first"):
        two.operations.undo()
    two.git.checkout(branch)
    manifest = two.path / "capabilities" / "y.json"
    manifest.write_text("edited")
    with pytest.raises(UsageError, match="local changes"):
        two.operations.undo()
    assert manifest.read_text() == "edited" and "y" in two.atlas()
    two.git.checkout("HEAD")
    two.git.plain("checkout", "--quiet", branch)
    two.git.plain("checkout", "--quiet", "--", ".")
    two.operations.undo()
    assert sorted(two.atlas()) == ["x"]


def test_every_change_asks_the_pre_commit_hook_with_what_it_would_commit(
    two: Repository, add: Add
) -> None:
    two.git.plain("branch", "side", "HEAD~1")
    branch = two.git.branch()
    two.git.checkout("side")
    add(two, "s", 0.4)
    two.git.checkout(branch)
    asked = hook(two, "pre-commit", "git diff --cached --name-only HEAD > {witness}; exit 1")
    head = two.git.head()
    for work in (removing, renaming, rolling_back, committing, merging):
        asked.unlink(missing_ok=True)
        with pytest.raises(GitError, match="pre-commit hook refused"):
            work(two, add)
        assert "capabilities/" in asked.read_text(), work
        assert two.git.head() == head and two.changes() == []
    assert [run.name for run in two.uncommitted()] == ["new"]


def test_the_post_commit_hook_is_told_and_its_failure_changes_nothing(
    two: Repository, add: Add
) -> None:
    told = hook(two, "post-commit", "git rev-parse HEAD >> {witness}; exit 1")
    commits = [add(two, "new", 0.3), two.remove("x"), two.rename("y", "z")]
    commits.append(two.rollback("x").commit)
    assert told.read_text().split() == commits


def test_the_post_merge_hook_is_told_of_merges_and_fast_forwards(two: Repository) -> None:
    told = hook(two, "post-merge", "echo $1 >> {witness}")
    two.git.plain("checkout", "--quiet", "-b", "behind", "HEAD~1")
    two.merge("HEAD@{1}")
    assert told.read_text() == "0\n"


def test_what_is_done_does_not_fail_since_the_log_is_busy(
    committed: Repository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("niwfctl.repository.operations.PATIENCE", 0.1)
    with Repository.open(committed.path).operations.recording_training("plum"):
        held = threading.Thread(target=lambda: committed.remove("apple"))
        held.start()
        held.join()
    assert "apple" not in committed.atlas()
    assert "'Remove apple' is done, but `undo` does not know of it" in caplog.text


@pytest.mark.parametrize("message", ["", " "])
def test_no_commit_is_made_with_an_empty_message(committed: Repository, message: str) -> None:
    before = committed.git.head()
    for change in (
        lambda: committed.remove("apple", message),
        lambda: committed.rename("apple", "pear", message),
        lambda: committed.compose("apple", "pear", message=message),
    ):
        with pytest.raises(UsageError, match="empty"):
            change()
    assert committed.git.head() == before and committed.git.changes() == []


def test_a_commit_whose_objects_were_removed_since_is_not_done_again(
    fresh: Repository, add: Add
) -> None:
    add(fresh, "new")
    made = {ref.oid for ref in fresh.capability("new").objects}
    fresh.operations.undo()
    for oid in made:
        fresh.store.remove(oid)
    head = fresh.git.head()
    with pytest.raises(UsageError, match=r"were removed since.*`niwfctl commit new`"):
        fresh.operations.undo()
    assert fresh.git.head() == head
    fresh.commit(["new"], "Again")
    assert {ref.oid for ref in fresh.capability("new").objects} == made and fresh.verify().ok
