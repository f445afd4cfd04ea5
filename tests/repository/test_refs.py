"""Branches and tags as those who know git type them."""

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from niwfctl.repository import Repository

Add = Callable[..., str]
Command = Callable[..., Result]


@pytest.fixture
def two(fresh: Repository, add: Add) -> Repository:
    """`x` and then `y`, on the branch main."""
    fresh.git.plain("branch", "--move", "--force", "main")
    add(fresh, "x", 0.1)
    add(fresh, "y", 0.2)
    return fresh


@pytest.mark.parametrize("kind", ["branch", "tag"])
def test_all_branches_or_tags_that_are_named_are_deleted_or_none(
    niwfctl: Command, two: Repository, kind: str
) -> None:
    refs = two.branches if kind == "branch" else two.tags
    for name in ("a", "b", "c"):
        niwfctl("-C", two.path, kind, name)
    missing = niwfctl("-C", two.path, kind, "-d", "a", "no", "b", "nor")
    assert missing.exit_code == 4
    assert f"no {kind} is called 'no' or 'nor': there are a, b, c" in missing.stderr
    done = niwfctl("-C", two.path, kind, "-d", "a", "b", "c")
    assert done.exit_code == 0 and done.stdout.count("eleted") == 3
    assert {ref.name for ref in refs.entries()} <= {"main"}


def test_an_unmerged_branch_is_named_where_others_are_deleted(
    niwfctl: Command, two: Repository, add: Add
) -> None:
    two.checkout(None, branch="side")
    add(two, "z", 0.3)
    two.checkout("main")
    two.branches.make("merged")
    done = niwfctl("-C", two.path, "branch", "-d", "side", "merged")
    assert done.exit_code == 2 and "side" in done.stderr and "not fully merged" in done.stderr
    assert [ref.name for ref in two.branches.entries()] == ["main", "side"]


def test_a_message_without_a_tag_is_refused(niwfctl: Command, two: Repository) -> None:
    for arguments, words in (
        (("-m", "hi"), "--message: say which tag"),
        (("-d",), "--delete: say which tag"),
        (("-d", "-m", "hi", "v1"), "exclude each other"),
        (("v1", "HEAD", "v2"), "v1 HEAD v2 are 3 names: expected NAME and what to tag"),
    ):
        done = niwfctl("-C", two.path, "tag", *arguments)
        assert done.exit_code == 2 and words in done.stderr
    assert not json.loads(niwfctl("-C", two.path, "tag", "--json").stdout)


def test_a_dash_is_the_branch_that_was_left_last(
    niwfctl: Command, two: Repository, add: Add
) -> None:
    def said(*arguments: str) -> str:
        done = niwfctl("-C", two.path, *arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    for command in ("checkout", "merge"):
        none = niwfctl("-C", two.path, command, "-")
        assert none.exit_code == 2 and "but there was none, or it is gone" in none.stderr
    said("checkout", "-b", "x")  # a capability's name, too
    add(two, "z", 0.3)
    assert said("checkout", "-").startswith("at main (")
    assert said("checkout", "-").startswith("at x (")
    said("checkout", "-")
    assert "added    z" in said("merge", "-")
    said("checkout", "-b", "again", "-")
    assert two.git.branch() == "again" and two.git.head() == two.git.resolve("x")


def test_a_merge_of_a_dash_names_the_branch(two: Repository, niwfctl: Command, add: Add) -> None:
    two.checkout("HEAD~1", branch="side")
    add(two, "z", 0.3)
    two.checkout("main")
    niwfctl("-C", two.path, "merge", "-")
    assert two.history.log(limit=1)[0].subject == "Merge side"
    two.checkout("HEAD~1")
    two.checkout("main")
    assert niwfctl("-C", two.path, "merge", "-").stdout.startswith("up to date")
