"""rollback, rm and mv: whatever was, can be again, bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from histories import place, revise
from typer.testing import Result

from niwfctl.errors import (
    UnknownName,
    UsageError,
)
from niwfctl.repository import Repository
from niwfctl.repository.merge import Resolution
from niwfctl.repository.rewrite import version_before

Add = Callable[..., str]
Evidence = Callable[[Repository, str], dict[str, bytes]]


def tree(repository: Repository, revision: str = "HEAD") -> str:
    return repository.git.plain("rev-parse", f"{revision}^{{tree}}")


def clean(repository: Repository) -> None:
    assert repository.git.plain("status", "--porcelain") == ""
    assert repository.verify().ok


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
