"""rollback, rm, mv and undo, and hooks: whatever was, can be again, bit for bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from histories import place, revise
from typer.testing import Result

from niwfctl.errors import (
    Busy,
    GitError,
    NiwfError,
    TrainingError,
    TrainingInterrupted,
    UnknownName,
    UsageError,
)
from niwfctl.repository import Repository
from niwfctl.repository.merge import Resolution
from niwfctl.repository.rewrite import version_before
from niwfctl.repository.upkeep import collect

Add = Callable[..., str]
Evidence = Callable[[Repository, str], dict[str, bytes]]


def hook(repository: Repository, name: str, script: str) -> Path:
    """Installs a hook; returns the file it may write to."""
    path = repository.git.folder / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    witness = repository.path.parent / f"{name}.txt"
    path.write_text(f"#!/bin/sh\n{script.format(witness=witness)}\n")
    path.chmod(0o755)
    return witness


def tree(repository: Repository, revision: str = "HEAD") -> str:
    return repository.git.plain("rev-parse", f"{revision}^{{tree}}")


def clean(repository: Repository) -> None:
    assert repository.git.plain("status", "--porcelain") == ""
    assert repository.verify().ok


@pytest.fixture
def two(fresh: Repository, add: Add) -> Repository:
    """`x` and then `y`."""
    add(fresh, "x", 0.1)
    add(fresh, "y", 0.2)
    return fresh


def test_a_merged_branch_that_lacks_later_versions_does_not_change_what_the_one_before_is(
    two: Repository, add: Add, niwfctl: Callable[..., Result]
) -> None:
    two.git.plain("branch", "-M", "main")
    two.git.plain("branch", "side")
    second, third = revise(two, "x", 2), revise(two, "x", 3)
    before = two.capability(f"x@{second}")
    two.git.checkout("side")
    add(two, "later", 0.3)
    two.git.checkout("main")
    two.merge("side")
    assert two.capability("x").unrouted == two.capability(f"x@{third}").unrouted
    shown = niwfctl("-C", two.path, "rollback", "x")
    assert f"as of {second[:12]}" in shown.stdout
    assert two.capability("x").unrouted == before.unrouted


def test_the_version_before_one_that_a_merge_brought_is_on_the_branch_it_came_from(
    two: Repository, add: Add
) -> None:
    two.git.plain("branch", "-M", "main")
    two.git.plain("checkout", "--quiet", "-b", "side")
    added = add(two, "new", 0.3)
    revise(two, "new", 2)
    two.git.checkout("main")
    revise(two, "x", 2)
    two.merge("side")
    assert version_before(two, "new") == added


def test_the_version_before_a_merge_took_theirs_is_ours(two: Repository) -> None:
    two.git.plain("branch", "-M", "main")
    two.git.plain("checkout", "--quiet", "-b", "side")
    revise(two, "x", 2)
    two.git.checkout("main")
    ours = revise(two, "x", 3)
    two.merge("side", Resolution(side="theirs"))
    assert version_before(two, "x") == ours


def test_nothing_is_brought_back_beside_a_name_that_differs_in_case_only(two: Repository) -> None:
    two.rename("x", "pear")
    two.rename("y", "X")
    with pytest.raises(UsageError, match="only in case"):
        two.rollback("x", to="HEAD~2")


def test_everything_is_rolled_back_to_the_very_tree_it_was(two: Repository, add: Add) -> None:
    then, before = two.git.head(), tree(two)
    two.remove("x")
    two.rename("y", "z")
    add(two, "w", 0.3)
    now = two.git.head()
    would_be = two.rollback(to=then, dry_run=True).after
    assert sorted(would_be) == ["x", "y"]
    assert two.git.head() == now and sorted(two.atlas()) == ["w", "z"]
    two.rollback(to=then)
    assert tree(two) == before
    assert two.git.resolve("HEAD~1") == now
    clean(two)


def test_a_capability_changed_by_a_merge_comes_back_as_it_was_before(
    two: Repository, add: Add, evidence: Evidence
) -> None:
    first, old = two.git.head(), evidence(two, "x")
    two.remove("x")
    add(two, "x", 0.9)
    changed = evidence(two, "x")
    assert changed != old
    two.rollback("x")
    assert evidence(two, "x") == old
    assert evidence(two, "y") == evidence(two, f"y@{first}")
    two.rollback("x", to="HEAD~1")
    assert evidence(two, "x") == changed
    clean(two)


def test_the_bare_backbone_is_active_once_the_active_capability_is_removed(
    two: Repository,
) -> None:
    two.checkout("x")
    two.remove("y")
    assert two.active == "x"
    two.remove("x")
    assert two.active is None


def test_no_capability_takes_the_name_of_an_uncommitted_training(
    two: Repository, data: Path
) -> None:
    two.train("c", [data], QUICK)
    for take in (lambda: two.rename("x", "c"), lambda: two.compose(["x", "y"], "c")):
        with pytest.raises(UsageError, match="uncommitted training"):
            take()
    two.commit(["c"], "Add c")
    assert set(two.atlas()) == {"x", "y", "c"}


def test_a_renamed_capability_stays_the_active_one(two: Repository) -> None:
    old = sorted(two.atlas())[0]
    two.checkout(old)
    two.rename(old, "renamed")
    assert two.active == "renamed"


def test_removing_nothing_is_refused(two: Repository) -> None:
    with pytest.raises(UsageError, match="say what to remove"):
        two.remove(())


@pytest.mark.parametrize(
    "name", ["HEAD", "auto", "base", "backbone", "coordinates", "commit", "tag", "atlas"]
)
def test_what_means_something_else_names_no_capability(two: Repository, name: str) -> None:
    with pytest.raises(UsageError, match="the name is reserved"):
        two.rename(sorted(two.atlas())[0], name)


def test_reflog_entries_are_revisions_and_no_capabilities(two: Repository) -> None:
    assert not two.names_capability("HEAD@{1}")


def test_one_repository_object_moves_from_revision_to_revision(two: Repository) -> None:
    two.git.plain("branch", "before", "HEAD~1")
    main = two.git.branch()
    for revision in ("before", main, "before"):
        two.checkout(revision)
        assert two.git.branch() == revision and two.config.field


def test_a_rollback_that_makes_no_sense_is_refused(two: Repository) -> None:
    head = two.git.head()
    with pytest.raises(UnknownName, match="no capability 'y' at HEAD~1"):
        two.rollback("y", to="HEAD~1")
    with pytest.raises(UnknownName, match="no earlier version"):
        two.rollback("y")
    with pytest.raises(UnknownName, match="no commit is called"):
        two.rollback("y", to="nowhere")
    with pytest.raises(UsageError, match="already"):
        two.rollback(to="HEAD")
    with pytest.raises(UsageError, match="say what"):
        two.rollback()
    assert two.git.head() == head


def test_what_is_already_as_it_was_is_not_rolled_back_where_others_are_not_settled(
    trained: Repository,
) -> None:
    place(trained, "first", 50.0)
    start = trained.git.head()
    for name in "ab":
        trained.git.plain("checkout", "--quiet", "-b", name, start)
        place(trained, name, 5.0, accept_shadow=True)
    trained.git.plain("merge", "--quiet", "-m", "By git", "a")
    head = trained.git.head()
    assert not trained.verify().ok
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=f"first is already as it was at {start[:12]}"):
            trained.rollback("first", to=start, dry_run=dry_run)
    assert trained.git.head() == head


def test_bases_that_others_share_stay_until_the_last_of_them_goes(
    two: Repository, add: Add, evidence: Evidence
) -> None:
    add(two, "twin", 0.1)
    shared = [ref.oid for ref in two.capability("twin").regions[0].bases]
    assert shared == [ref.oid for ref in two.capability("x").regions[0].bases]
    before = evidence(two, "twin")
    two.remove("x")
    assert evidence(two, "twin") == before
    clean(two)
    two.rename("twin", "brother")
    assert evidence(two, "brother") == before
    two.remove("brother")
    pointers = {Path(path).stem for path in two.git.files("HEAD", "objects")}
    assert not pointers & set(shared)
    clean(two)


def test_rm_and_mv_of_what_is_not_there_or_to_what_is_are_refused(two: Repository) -> None:
    head = two.git.head()
    with pytest.raises(UnknownName, match=r"'z'.*x, y"):
        two.remove("z")
    with pytest.raises(UnknownName, match="'z'"):
        two.rename("z", "w")
    with pytest.raises(UsageError, match="already"):
        two.rename("x", "y")
    for name in ("../x", "", "a/b", "x.lock"):
        with pytest.raises(UsageError, match="cannot name"):
            two.rename("x", name)
    assert two.git.head() == head


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
