"""Branches and tags as those who know git type them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from niwfctl.repository import Repository

Add = Callable[..., str]
Command = Callable[..., Result]


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
        (("-m", "hi"), "say which tag to make"),
        (("-d",), "say which tag to delete"),
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


@pytest.fixture
def pushed(two: Repository, tmp_path: Path) -> Repository:
    """The same; `main` follows origin/main, which lacks `y` but has a commit of its own."""
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "hub.git"], check=True)
    git = two.git.plain
    git("remote", "add", "origin", str(tmp_path / "hub.git"))
    theirs = git("commit-tree", "HEAD~1^{tree}", "-p", "HEAD~1", "-m", "Theirs")
    git("push", "--quiet", "--no-verify", "origin", f"{theirs}:refs/heads/main")
    git("fetch", "--quiet", "origin")
    git("branch", "--quiet", "--set-upstream-to", "origin/main")
    return two


def test_branches_are_listed_as_git_lists_them(niwfctl: Command, pushed: Repository) -> None:
    def listed(*arguments: str) -> str:
        done = niwfctl("-C", pushed.path, "branch", *arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    def names(*arguments: str) -> list[str]:
        return [ref["name"] for ref in json.loads(listed("--json", *arguments))]

    pushed.branches.make("side")
    head = pushed.git.head()[:7]
    assert f"* main {head} [origin/main: ahead 1, behind 1] Add y" in listed("-v")
    assert listed("-v") == listed("-vv") and "[ahead 1, behind 1] Add y" in listed("--list")
    assert "* main" in listed("-a") and "  remotes/origin/main" in listed("-a")
    assert (
        listed("-r").startswith("  origin/main") and listed("-l", "s*") == f"  side {head} Add y\n"
    )
    assert names("-a") == ["main", "side", "origin/main"] and names("-r") == ["origin/main"]
    assert names("-l", "s*") == ["side"] and names("-r", "o*") == ["origin/main"]
    assert listed("--show-current") == "main\n" and names("--show-current") == ["main"]
    pushed.checkout("HEAD~1")
    assert listed("--show-current") == "" and names("--show-current") == []


def test_a_branch_is_deleted_or_replaced_by_force(
    niwfctl: Command, two: Repository, add: Add
) -> None:
    two.checkout(None, branch="side")
    add(two, "z", 0.3)
    made = two.git.head()
    two.branches.make("other", "main")
    assert niwfctl("-C", two.path, "branch", "-M", "other").exit_code == 0
    assert two.git.branch() == "other" and two.git.head() == made
    two.checkout("main")
    assert niwfctl("-C", two.path, "branch", "-d", "other").exit_code == 2
    assert niwfctl("-C", two.path, "branch", "-D", "other").exit_code == 0
    assert [ref.name for ref in two.branches.entries()] == ["main"]
    both = niwfctl("-C", two.path, "branch", "-D", "main", "--show-current")
    assert both.exit_code == 2 and "--delete and --show-current exclude each other" in both.stderr


def test_tags_are_annotated_and_listed_by_pattern(niwfctl: Command, two: Repository) -> None:
    silent = niwfctl("-C", two.path, "tag", "-a", "v1")
    assert silent.exit_code == 2 and "--annotate needs a message" in silent.stderr
    niwfctl("-C", two.path, "tag", "-a", "v1", "-m", "First")
    assert two.git.kind("v1") == "tag"
    niwfctl("-C", two.path, "tag", "w1")
    assert niwfctl("-C", two.path, "tag", "-l", "v*").stdout == "v1              First\n"
    assert len(niwfctl("-C", two.path, "tag", "-l").stdout.splitlines()) == 2
    (found,) = json.loads(niwfctl("-C", two.path, "tag", "-l", "w*", "--json").stdout)
    assert found["name"] == "w1"


def test_remotes_and_status_take_the_options_of_git(
    niwfctl: Command, pushed: Repository, train: Callable[..., None]
) -> None:
    shown = [niwfctl("-C", pushed.path, "remote", *verbose).stdout for verbose in ((), ("-v",))]
    assert shown[0] == shown[1] == f"origin  {pushed.remotes.urls()['origin']}\n"
    assert niwfctl("-C", pushed.path, "status", "-s").stdout == ""
    train(pushed, "z", shift=0.3)
    (pushed.path / "niwf.toml").open("a").write("\n")
    trained, changed = niwfctl("-C", pushed.path, "status", "--short").stdout.splitlines()
    assert trained.startswith("z: trained, 3 steps") and changed == " M niwf.toml"


def test_checkout_of_a_capability_that_other_branches_have_names_them(
    niwfctl: Command, two: Repository
) -> None:
    two.branches.make("kept")
    two.checkout("HEAD~1", branch="side")
    done = niwfctl("-C", two.path, "checkout", "y")
    assert done.exit_code == 4
    assert "capabilities are x; it is on kept, main: `niwfctl checkout y@kept`" in done.stderr
    assert niwfctl("-C", two.path, "checkout", "y@kept").exit_code == 0
    nowhere = niwfctl("-C", two.path, "checkout", "z")
    assert nowhere.exit_code == 4 and nowhere.stderr.rstrip().endswith("capabilities are x")
