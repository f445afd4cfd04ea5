"""What hands that know git type without thinking: ranges, branch -m, checkout -b, push --tags."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from histories import on
from typer.testing import Result

from niwfctl.errors import UnknownName, UsageError
from niwfctl.repository import Repository
from niwfctl.repository.clone import clone

Add = Callable[..., str]
Command = Callable[..., Result]
needs_lfs = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")


def subjects(done: Result) -> list[str]:
    assert done.exit_code == 0, done.output
    return [commit["message"] for commit in json.loads(done.stdout)]


def git(path: Path, *arguments: str) -> list[str]:
    return subprocess.check_output(["git", "-C", path, *arguments], text=True).split()


def test_log_of_a_capability_has_the_commits_that_changed_it(
    niwfctl: Command, two: Repository
) -> None:
    two.rename("x", "z")
    two.remove("y")

    def log(*arguments: str) -> list[str]:
        return subjects(niwfctl("-C", two.path, "log", "--json", *arguments))

    assert log("z") == ["Rename x to z"]
    assert log("x") == ["Rename x to z", "Add x"]  # it is at HEAD no more
    assert log("y", "HEAD~1") == log("HEAD~1", "y") == log("y@HEAD~1") == ["Add y"]
    assert log("y", "z") == ["Remove y", "Rename x to z", "Add y"]
    drawn = niwfctl("-C", two.path, "log", "--graph", "y").stdout
    assert "Remove y" in drawn and "Add y" in drawn and "Rename" not in drawn


def test_a_graph_of_a_capability_draws_the_commits_that_its_log_lists(
    two: Repository, add: Add
) -> None:
    two.checkout("HEAD~1", branch="side")
    add(two, "z", 0.3)
    two.checkout("main")
    two.merge("side")
    two.git.plain("config", "log.follow", "true")
    listed = [commit.id for commit in two.history.log(names="z")]
    assert len(listed) == 2  # where it was added, and the merge that brought it
    for limit in (1, 2, None):
        drawn = two.history.graph(limit=limit, names="z")
        assert [commit.id for _, commit in drawn if commit] == listed[:limit]
        assert all(commit is not None for line, commit in drawn if "*" in line)


def test_log_of_a_capability_tells_nothing_of_others(niwfctl: Command, two: Repository) -> None:
    two.remove(["x", "y"])
    (last, _) = json.loads(niwfctl("-C", two.path, "log", "y", "--json").stdout)
    assert [change["name"] for change in last["changes"]] == ["y"]


def test_log_of_a_range_has_what_one_end_lacks(niwfctl: Command, two: Repository) -> None:
    two.branches.make("side", "HEAD~1")
    for span in ("side..main", "side..", "side...main", "..side"):
        found = subjects(niwfctl("-C", two.path, "log", "--json", span))
        assert found == ([] if span == "..side" else ["Add y"])


def test_log_takes_revisions_and_numbers_as_git_does(
    niwfctl: Command, two: Repository, add: Add
) -> None:
    two.checkout("HEAD~1", branch="side")
    add(two, "z", 0.3)
    two.checkout("main")

    def log(*arguments: str) -> list[str]:
        return subjects(niwfctl("-C", two.path, "log", "--json", *arguments))

    def ids(*arguments: str) -> list[str]:
        return git(two.path, "log", "--format=%H", *arguments)

    assert log("-1") == log("-n", "1") == ["Add y"] and len(log("-2", "side")) == 2
    assert log("-n", "-1") == log()  # no limit
    assert set(log("main", "side")) == set(log("--all")) == {*log(), "Add z"} != set(log())
    assert log("^main", "side") == log("side", "^main") == ["Add z"] and not log("^main")
    assert log("--all", "z") == ["Add z"] and not log("--all", "--max-count=0")
    for arguments in (("main", "side"), ("--all",), ("--all", "-1"), ("^HEAD~1", "main", "side")):
        found = niwfctl("-C", two.path, "log", "--json", *arguments).stdout
        assert [commit["commit"] for commit in json.loads(found)] == ids(*arguments)
    drawn = niwfctl("-C", two.path, "log", "--graph", "--all").stdout
    assert "(side) Add z + z" in drawn and "|/" in drawn


def test_a_commit_in_one_line_has_its_branches_and_capabilities(
    niwfctl: Command, two: Repository
) -> None:
    line = niwfctl("-C", two.path, "log", "--oneline", "-1").stdout
    assert line == f"{two.git.head()[:7]} (HEAD -> main) Add y + y\n"
    assert niwfctl("-C", two.path, "log", "--oneline", "--graph", "-1").stdout == f"* {line}"


@pytest.mark.parametrize(
    ("targets", "code", "words"),
    [
        (("nothing",), 4, "a tag nor a commit is called 'nothing': capabilities are x, y"),
        (("*",), 4, "a tag nor a commit is called '*'"),
        (("nothing..main",), 4, "no commit is called 'nothing'"),
        (("main", "^nothing"), 4, "no commit is called 'nothing'"),
    ],
)
def test_log_of_what_is_not_there_is_refused(
    niwfctl: Command, two: Repository, targets: tuple[str, ...], code: int, words: str
) -> None:
    done = niwfctl("-C", two.path, "log", *targets)
    assert done.exit_code == code and words in done.stderr


def test_a_branch_is_made_and_checked_out_at_once(niwfctl: Command, two: Repository) -> None:
    before = two.git.head()
    assert niwfctl("-C", two.path, "checkout", "-b", "side").stdout.startswith("at side (")
    assert two.git.branch() == "side" and two.git.head() == before
    niwfctl("-C", two.path, "checkout", "-b", "older", "HEAD~1")
    assert set(two.atlas()) == {"x"}
    again = niwfctl("-C", two.path, "checkout", "-b", "side")
    assert again.exit_code == 2 and "already exists" in again.stderr
    nowhere = niwfctl("-C", two.path, "checkout", "-b", "new", "nowhere")
    assert nowhere.exit_code == 4 and "no commit is called 'nowhere'" in nowhere.stderr
    both = niwfctl("-C", two.path, "checkout", "-b", "new", "--base")
    assert both.exit_code == 2 and "exclude each other" in both.stderr
    assert two.git.branch() == "older"


def test_leaving_commits_that_no_branch_holds_says_how_to_keep_them(
    niwfctl: Command, two: Repository, add: Add, caplog: pytest.LogCaptureFixture
) -> None:
    start = two.git.resolve("HEAD~1")
    place = niwfctl("-C", two.path, "checkout", start).stdout
    assert place == f"at {start[:12]}, on no branch\n"
    two.checkout("HEAD~1")  # which main holds
    assert not caplog.text
    add(two, "z", 0.3)
    made = add(two, "v", 0.4)
    two.checkout("main")
    assert "you leave behind 2 commits" in caplog.text
    assert f"`niwfctl branch NAME {made[:12]}`" in caplog.text
    caplog.clear()
    two.checkout(made)
    two.checkout(None, branch="kept")
    two.checkout("main")
    assert not caplog.text


def test_paths_are_those_of_the_folder_that_c_names(
    niwfctl: Command,
    two: Repository,
    backbone: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").symlink_to(backbone)
    monkeypatch.chdir(tmp_path)
    made = niwfctl("-C", "in", "init", "new", "--model", "model", "--dim", 8)
    assert made.exit_code == 0, made.output
    shutil.copy(data, "here.jsonl")
    shutil.copy(data, two.path / "there.jsonl")
    for name, code in (("here.jsonl", 5), ("there.jsonl", 0)):
        done = niwfctl("-C", two.path.name, "eval", "--data", name)
        assert done.exit_code == code, done.output
    (tmp_path / "model").symlink_to(backbone)
    elsewhere = niwfctl("-C", two.path, "init", tmp_path / "x", "--model", "model", "--dim", 8)
    assert elsewhere.exit_code == 7 and f"'{two.path}/model' does not exist" in elsewhere.stderr


def test_folders_that_c_names_lead_on_from_one_another(
    niwfctl: Command, two: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two.path.parent)
    for folders in ((two.path.name, "capabilities"), (tmp_path, two.path), ("", two.path.name)):
        options = [part for folder in folders for part in ("-C", folder)]
        assert niwfctl(*options, "status").exit_code == 0
    outside = niwfctl("-C", two.path, "-C", "..", "status")
    assert outside.exit_code == 3 and "is not inside a niwfctl repository" in outside.stderr


def test_a_branch_is_renamed(niwfctl: Command, two: Repository) -> None:
    two.branches.make("side")
    niwfctl("-C", two.path, "branch", "-m", "side", "other")
    niwfctl("-C", two.path, "branch", "-m", "trunk")
    assert [ref.name for ref in two.branches.entries()] == ["other", "trunk"]
    assert two.git.branch() == "trunk" and set(two.atlas()) == {"x", "y"}
    for arguments, code, words in (
        (("-m",), 2, "--move: say which branch"),
        (("-m", "none", "new"), 4, "no branch is called 'none': there are other, trunk"),
        (("-m", "other", "trunk"), 2, "already exists"),
        (("-m", "-d", "other"), 2, "exclude each other"),
        (("-m", "other", "a", "b"), 2, "expected OLD NEW"),
    ):
        done = niwfctl("-C", two.path, "branch", *arguments)
        assert done.exit_code == code and words in done.stderr


def test_a_second_meaning_of_a_name_is_told_when_it_is_made(
    niwfctl: Command, two: Repository, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told(*arguments: object) -> str:
        caplog.clear()
        done = niwfctl("-C", two.path, *arguments)
        assert done.exit_code == 0, done.output
        return caplog.text

    assert not told("branch", "side") and not told("tag", "v1")
    assert "both a capability and a branch: say `x@HEAD`" in told("branch", "x")
    assert "both a capability and a branch" in told("branch", "-m", "x", "y")
    assert "`refs/tags/x` for the tag" in told("tag", "x")
    assert "both a capability and a tag" in told("mv", "y", "v1")
    training = ("--data", data, "--steps", 1, "--rank", 2)
    assert "both a capability and a branch" in told("train", "side", *training)
    assert not told("train", "plum", *training)
    assert "both a capability and a branch" in told("checkout", "-b", "plum")
    assert "both a capability and a branch" in told("compose", "x", "v1", "--name", "y")


def test_several_capabilities_are_removed_in_one_commit(
    niwfctl: Command, two: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    before = two.git.head()
    missing = niwfctl("-C", two.path, "rm", "x", "nothing")
    assert missing.exit_code == 4 and two.git.head() == before
    two.checkout("y")
    done = niwfctl("-C", two.path, "rm", "x", "y")
    assert "removed x, y" in done.stdout and "y was active" in caplog.text
    assert not two.atlas() and two.active is None
    two.operations.undo()
    assert set(two.atlas()) == {"x", "y"} and two.active == "y"


def test_gates_that_lose_their_capability_are_told(
    two: Repository, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = two.path / "niwf.toml"
    file.write_text(f'{file.read_text()}\n[gates.x]\ndata = "{data}"\n')
    two.git.plain("commit", "--quiet", "--all", "-m", "A gate")
    two.remove("y")
    assert not caplog.text
    told, gated = "niwf.toml still sets [gates.x]", two.git.head()
    two.rename("x", "z")
    assert told in caplog.text
    caplog.clear()
    on(two, "side", "HEAD~2")
    two.merge("main")
    assert told in caplog.text
    caplog.clear()
    on(two, "main", gated)
    two.rollback(to="main~4", dry_run=True)
    assert not caplog.text
    two.rollback(to="main~4")
    assert told in caplog.text


def test_a_remote_is_renamed_and_moved(niwfctl: Command, two: Repository) -> None:
    two.remotes.add("origin", "/there")
    niwfctl("-C", two.path, "remote", "rename", "origin", "team")
    shown = niwfctl("-C", two.path, "remote", "set-url", "team", "/elsewhere", "--json").stdout
    assert json.loads(shown) == [{"name": "team", "url": "/elsewhere"}]
    for call in (
        lambda: two.remotes.rename("origin", "x"),
        lambda: two.remotes.set_url("origin", "x"),
    ):
        with pytest.raises(UnknownName, match="no remote is called 'origin': there are team"):
            call()


@needs_lfs
def test_push_tags_sends_all_tags_and_their_objects(
    niwfctl: Command, shared: Repository, remote: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="there are no tags to push"):
        shared.remotes.push("origin", tags=True)
    shared.tags.make("v1")
    shared.tags.make("v2", message="Annotated")
    assert niwfctl("-C", shared.path, "push", "--tags").exit_code == 0
    assert git(remote, "tag") == ["v1", "v2"] and not git(remote, "branch")
    shared.remotes.push("origin", ["main"], tags=True)
    copy = clone(str(remote), tmp_path / "copy")
    copy.checkout("v2")
    assert copy.verify().ok and copy.atlas() == shared.atlas()


@needs_lfs
def test_push_follows_another_remote_only_if_asked(
    niwfctl: Command, shared: Repository, tmp_path: Path
) -> None:
    git(tmp_path, "init", "-q", "--bare", "second.git")
    shared.remotes.add("second", str(tmp_path / "second.git"))
    for arguments, followed in (((), "origin"), (("second", "main"), "origin"), (None, "second")):
        asked = ("-u", "second", "main") if arguments is None else arguments
        assert niwfctl("-C", shared.path, "push", *asked).exit_code == 0
        assert shared.branches.upstream().name == f"{followed}/main"


@needs_lfs
def test_fetch_prune_forgets_branches_that_the_remote_has_no_more(
    niwfctl: Command, shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.branches.make("side")
    shared.remotes.push("origin", ["main", "side"])
    copy = clone(str(remote), tmp_path / "copy")
    git(remote, "branch", "-D", "side")
    git(remote, "branch", "side/below", "main")  # which cannot come while there is a `side`
    assert niwfctl("-C", copy.path, "fetch", "--prune").exit_code == 0
    known = git(copy.path, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes")
    assert set(known) - {"HEAD"} == {"main", "side/below"}


@needs_lfs
def test_status_compares_the_branch_with_what_it_follows(
    niwfctl: Command, shared: Repository, add: Add
) -> None:
    def status() -> str:
        shown = niwfctl("-C", shared.path, "status").stdout.splitlines()[1]
        told = json.loads(niwfctl("-C", shared.path, "status", "--json").stdout)["upstream"]
        assert told is None or told["name"] == "origin/main"
        return f"{shown} {told and (told['ahead'], told['behind'])}"

    assert status() == "Active: the bare backbone None"
    shared.remotes.push("origin")
    assert status() == "Your branch is up to date with 'origin/main'. (0, 0)"
    add(shared, "y", 0.1)
    add(shared, "z", 0.2)
    assert status() == "Your branch is ahead of 'origin/main' by 2 commits. (2, 0)"
    shared.remotes.push("origin")
    shared.git.plain("reset", "--hard", "--quiet", "HEAD~1")
    assert status() == "Your branch is behind 'origin/main' by 1 commit. (0, 1)"
    add(shared, "x", 0.3)
    assert status() == "Your branch and 'origin/main' have diverged, by 1 and 1 commits. (1, 1)"
    shared.checkout("HEAD~1")
    assert status() == "Active: the bare backbone None"


def test_rollback_takes_one_capability_from_another_branch_as_cherry_pick_would(
    niwfctl: Command, fresh: Repository, add: Add
) -> None:
    start = add(fresh, "both", 0.1)
    on(fresh, "side", start)
    add(fresh, "new", 0.2)
    add(fresh, "other", 0.3)
    on(fresh, "main", start)
    add(fresh, "own", 0.4)
    done = niwfctl("-C", fresh.path, "rollback", "new", "--to", "side")
    assert done.exit_code == 0, done.output
    assert list(fresh.atlas()) == ["both", "new", "own"]
    assert fresh.capability("new").unrouted == fresh.capability("new@side").unrouted
    assert fresh.verify().ok
    assert fresh.merge("side").added == ("other",)
