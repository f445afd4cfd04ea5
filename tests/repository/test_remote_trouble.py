"""What plain git, an odd environment, hooks and disks do to sharing, and what is then said."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import run_git as git
from histories import revise
from niwfstore import ObjectStore
from typer.testing import Result

from niwfctl.errors import ObjectError, RemoteError, UnknownName, UsageError
from niwfctl.repository import Repository
from niwfctl.repository.clone import clone

Add = Callable[..., str]

pytestmark = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")

NIWFCTL = "import sys; from niwfctl.cli.main import main; sys.argv[0] = 'niwfctl'; main()"


def hook(folder: Path, name: str, script: str) -> None:
    path = folder / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def objects(remote: Path) -> ObjectStore:
    return ObjectStore(remote / "lfs" / "objects")


def test_the_environment_of_another_repository_changes_nothing(
    shared: Repository, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    subprocess.run(["git", "init", "-q", other], check=True)
    git(other, "commit", "-q", "--allow-empty", "-m", "Something else")
    for name, value in (
        ("GIT_DIR", other / ".git"),
        ("GIT_WORK_TREE", other),
        ("GIT_COMMON_DIR", other / ".git"),
        ("GIT_INDEX_FILE", other / ".git" / "index"),
        ("GIT_OBJECT_DIRECTORY", other / ".git" / "objects"),
    ):
        monkeypatch.setenv(name, str(value))
    repository = Repository.open(shared.path)
    assert repository.path == shared.path and set(repository.atlas()) == {"apple"}
    assert repository.remotes.push("origin", []) == 4
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert clone(str(remote), tmp_path / "copy").verify().ok
    assert git(remote, "rev-parse", "main") == shared.git.head()


def test_a_hook_of_git_pulls_into_the_repository_that_it_goes_to(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.remotes.push("origin", [])
    site = clone(str(remote), tmp_path / "site").path
    hook(remote, "post-receive", f'cd {site} && "{sys.executable}" -c "{NIWFCTL}" pull')
    shared.rename("apple", "apples")
    shared.remotes.push("origin", [])
    assert set(Repository.open(site).atlas()) == {"apples"}


def test_plain_git_push_carries_objects_from_a_repository_and_from_a_clone(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    git(shared.path, "push", "-q", "origin", "main")
    assert set(objects(remote)) == set(shared.store)
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "second.git"], check=True)
    copy = clone(str(remote), tmp_path / "copy")
    git(copy.path, "remote", "add", "second", str(tmp_path / "second.git"))
    git(copy.path, "push", "-q", "second", "main")
    assert set(objects(tmp_path / "second.git")) == set(shared.store)
    assert "Updated Git hooks" in git(copy.path, "lfs", "update")  # it takes ours for its own


def test_a_pre_push_hook_that_is_there_stays_and_is_told_of_if_it_sends_no_objects(
    niwfctl: Callable[..., Result],
    fresh: Repository,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = "plain `git push` carries no objects"
    for name, script, told in (("own", "exit 3", True), ("lfs", 'git lfs pre-push "$@"', False)):
        joined = tmp_path / name
        subprocess.run(["git", "init", "-q", joined], check=True)
        hook(joined / ".git", "pre-push", script)
        before = (joined / ".git" / "hooks" / "pre-push").read_text()
        caplog.clear()
        Repository.init(joined, model=str(fresh.config.backbone.model), dim=8)
        assert (words in caplog.text) == told
        assert (words in niwfctl("-C", joined, "doctor").stdout) == told
        assert (joined / ".git" / "hooks" / "pre-push").read_text() == before


def test_the_hook_of_git_lfs_sends_nothing_before_the_remote_was_asked(
    shared: Repository, remote: Path
) -> None:
    assert (shared.git.common / "hooks" / "pre-push").exists()
    git(shared.path, "config", "lfs.url", "http://127.0.0.1:1/")  # where whoever sends fails
    with pytest.raises(RemoteError, match="origin did not receive all objects"):
        shared.remotes.push("origin", [])


def test_a_damaged_copy_on_the_remote_is_told_to_be_removed_before_a_push(
    shared: Repository, remote: Path
) -> None:
    oid = min(shared.store)
    file = remote / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(shared.store.size(oid)))
    with pytest.raises(RemoteError, match=f"{oid} .*no branch was pushed; remove what the remote"):
        shared.remotes.push("origin", [])
    assert not git(remote, "for-each-ref")
    file.unlink()
    shared.remotes.push("origin", [])
    assert set(objects(remote)) == set(shared.store)


def test_push_brings_what_plain_git_left_behind(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    git(shared.path, "push", "-q", "--no-verify", "origin", "main")
    with pytest.raises(RemoteError, match=r"lacks objects of apple .*`niwfctl push`"):
        clone(str(remote), tmp_path / "copy")
    copy = Repository.open(tmp_path / "copy")
    with pytest.raises(ObjectError, match="must run `git lfs push --all origin`"):
        copy.load("apple")
    assert copy.remotes.push("origin", []) == 0  # it cannot help, and hinders nobody
    assert shared.remotes.push("origin", []) == 4
    copy.remotes.fetch("origin")
    assert copy.verify().ok


def test_an_incomplete_branch_hinders_only_those_who_use_it(
    shared: Repository, remote: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared.remotes.push("origin")
    fetched = clone(str(remote), tmp_path / "fetched")
    git(shared.path, "checkout", "-q", "-b", "side")
    revise(shared, "apple", 2)
    git(shared.path, "push", "-q", "--no-verify", "origin", "side")
    git(shared.path, "checkout", "-q", "main")
    shared.rename("apple", "apples")
    shared.remotes.push("origin")
    assert clone(str(remote), tmp_path / "cloned").verify().ok
    assert "those of side: someone who has them must run `niwfctl push origin side`" in caplog.text
    assert fetched.remotes.pull("origin").kind == "fast-forward"
    fetched.remotes.fetch("origin")
    assert fetched.verify().ok
    for everything, branch in ((True, "main"), (False, "side")):
        fetched.checkout(branch)
        with pytest.raises(RemoteError, match="origin lacks objects of"):
            fetched.remotes.fetch("origin", everything=everything)
    git(fetched.path, "checkout", "-q", "-b", "topic", "main")
    git(fetched.path, "branch", "-q", "--set-upstream-to", "origin/side")
    with pytest.raises(RemoteError, match="origin lacks objects of apple "):
        fetched.remotes.pull("origin")
    shared.remotes.push("origin", ["side"])
    fetched.remotes.fetch("origin", everything=True)


def test_what_a_pre_push_hook_says_is_shown_where_there_is_no_terminal(
    shared: Repository, remote: Path, capfd: pytest.CaptureFixture
) -> None:
    hook(shared.git.common, "pre-push", "echo told; echo warned >&2; exit 1")
    with pytest.raises(RemoteError, match=r"pre-push hook refused .*nothing was sent"):
        shared.remotes.push("origin", [])
    shown = capfd.readouterr()
    assert not shown.out and "told" in shown.err and "warned" in shown.err


def test_a_refusal_of_the_remote_does_not_claim_that_the_same_command_goes_on(
    shared: Repository, remote: Path
) -> None:
    hook(remote, "pre-receive", "exit 1")
    with pytest.raises(RemoteError, match="origin did not accept main") as refusal:
        shared.remotes.push("origin", [])
    assert "resume" not in str(refusal.value) and not git(remote, "for-each-ref")
    assert set(objects(remote)) == set(shared.store)


def test_pushing_after_an_undo_does_not_send_for_what_was_undone(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    start = shared.git.head()
    shared.rename("apple", "apples")
    shared.remotes.push("origin")
    shared.operations.undo()
    with pytest.raises(RemoteError, match="commits of main that you took back here") as refusal:
        shared.remotes.push("origin")
    assert "`git push --force-with-lease origin main`" in str(refusal.value)
    assert f"`niwfctl rollback --to {start[:12]}`" in str(refusal.value)
    copy = clone(str(remote), tmp_path / "copy")
    copy.rename("apples", "pears")
    copy.remotes.push("origin")
    for fetched in (False, True):  # what others did was never here
        if fetched:
            shared.remotes.fetch("origin")
        with pytest.raises(RemoteError, match="commits that are not here"):
            shared.remotes.push("origin")


def test_pull_and_push_go_by_the_upstream_that_status_reports(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.remotes.push("origin")
    copy = clone(str(remote), tmp_path / "copy")
    git(copy.path, "checkout", "-q", "-b", "topic", "--track", "origin/main")
    git(copy.path, "branch", "fresh")
    shared.rename("apple", "apples")
    shared.remotes.push("origin")
    assert copy.remotes.pull("origin").kind == "fast-forward"
    assert set(copy.atlas()) == {"apples"}
    copy.remotes.push("origin", ["topic", "fresh"])
    assert git(copy.path, "rev-parse", "--abbrev-ref", "topic@{upstream}") == "origin/main"
    assert git(copy.path, "rev-parse", "--abbrev-ref", "fresh@{upstream}") == "origin/fresh"
    shared.remotes.fetch("origin")
    shared.checkout("topic")
    shared.rename("apples", "pears")
    shared.remotes.push("origin")
    copy.rename("apples", "plums")
    with pytest.raises(RemoteError, match=r"`niwfctl merge origin/topic` on that branch"):
        copy.remotes.push("origin")


def test_pull_of_a_branch_that_the_remote_lacks_says_what_to_do(
    shared: Repository, remote: Path
) -> None:
    shared.remotes.push("origin")
    git(shared.path, "checkout", "-q", "-b", "topic")
    with pytest.raises(UnknownName, match=r"^origin has no branch topic: push it, or set"):
        shared.remotes.pull("origin")


def test_a_work_tree_of_another_repository_can_be_the_remote(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    git(shared.path, "push", "--quiet", "--no-verify", "origin", "main")
    tree = tmp_path / "tree"
    git(remote, "worktree", "add", "--quiet", "--detach", str(tree), "main")
    shared.remotes.add("tree", str(tree))
    assert shared.remotes.push("tree", ["main"]) == 4
    assert len(list(objects(remote))) == 4


def test_a_tag_that_moved_on_the_remote_stays_here_and_hinders_no_pull(
    shared: Repository, remote: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    git(shared.path, "tag", "v1")
    shared.remotes.push("origin", ["main", "v1"])
    copy = clone(str(remote), tmp_path / "copy")
    old = git(copy.path, "rev-parse", "v1")
    shared.rename("apple", "apples")
    git(shared.path, "tag", "--force", "v1")
    git(shared.path, "tag", "v2")
    git(shared.path, "push", "-q", "--no-verify", "--force", "origin", "main", "v1", "v2")
    assert copy.remotes.pull("origin").kind == "fast-forward"
    assert set(copy.atlas()) == {"apples"} and copy.verify().ok
    assert git(copy.path, "rev-parse", "v1") == old
    assert git(copy.path, "rev-parse", "v2") == shared.git.head()
    assert "called v1 than" in caplog.text and "`git fetch --tags --force origin`" in caplog.text


def test_fetch_gets_the_objects_of_head_where_that_is_at_a_tag(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    git(shared.path, "tag", "v1")
    shared.remove("apple")
    shared.remotes.push("origin", ["main", "v1"])
    copy = clone(str(remote), tmp_path / "copy", lazy=True)
    copy.checkout("v1")
    copy.remotes.fetch("origin")
    assert all(ref.oid in copy.store for ref in copy.capability("apple").objects)


def test_a_moved_tag_does_not_hide_that_a_branch_could_not_be_fetched(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    git(shared.path, "tag", "v1")
    shared.remotes.push("origin", ["main", "v1"])
    copy = clone(str(remote), tmp_path / "copy")
    shared.rename("apple", "apples")
    git(shared.path, "tag", "--force", "v1")
    git(shared.path, "branch", "side")
    git(shared.path, "push", "-q", "--no-verify", "--force", "origin", "main", "v1", "side")
    git(copy.path, "update-ref", "refs/remotes/origin/side/in/the/way", "HEAD")
    with pytest.raises(RemoteError, match="not everything was fetched from origin"):
        copy.remotes.fetch("origin")


def test_what_begins_with_a_dash_is_no_option_of_git(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.remotes.push("origin")
    shared.remotes.add("-q", str(remote))
    shared.remotes.set_url("-q", f"{remote}/")
    shared.remotes.fetch("-q", prune=True)
    shared.remotes.rename("-q", "-f")
    shared.remotes.remove("-f")
    assert list(shared.remotes.urls()) == ["origin"]
    assert clone(str(remote), tmp_path / "-x").verify().ok
    url = f"--config=core.sshCommand=touch {tmp_path / 'touched'}"
    with pytest.raises(RemoteError, match="cannot be cloned"):
        clone(url, tmp_path / "host:path")
    assert not (tmp_path / "touched").exists()


def test_a_branch_of_a_remote_that_is_called_as_an_option_takes_nothing(
    committed: Repository,
) -> None:
    for kind in ("remotes/origin", "heads", "tags"):
        committed.git.plain("update-ref", f"refs/{kind}/-f", "HEAD")
    file = committed.path / "niwf.toml"
    file.write_text(changed := f"{file.read_text()}# mine")
    with pytest.raises(UnknownName, match="'-f'"):
        committed.checkout("-f")
    assert file.read_text() == changed
    for refs in (committed.branches, committed.tags):
        refs.delete("-f")
        assert "-f" not in [ref.name for ref in refs.entries()]


def test_fetch_prunes_on_a_terminal_as_well(shared: Repository) -> None:
    shared.remotes.push("origin")
    shared.git.plain("update-ref", "refs/remotes/origin/gone", "HEAD")
    terminal, end = os.openpty()
    command = [sys.executable, "-c", NIWFCTL, "-C", shared.path, "fetch", "--prune"]
    done = subprocess.run(command, stderr=end)
    os.close(end)
    os.close(terminal)
    assert done.returncode == 0
    assert "gone" not in shared.git.plain("branch", "--remotes")


@pytest.mark.parametrize("command", ["bundle", "push"])
def test_what_a_lazy_clone_lacks_of_a_bundle_or_push_is_asked_for_at_once(
    shared: Repository,
    remote: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    shared.remotes.push("origin", [])
    copy = clone(str(remote), tmp_path / "copy", lazy=True)
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "second.git"], check=True)
    copy.remotes.add("second", str(tmp_path / "second.git"))
    asked = tmp_path / "asked"
    hook(tmp_path, "git-lfs", f'echo "$@" >> {asked}\nexec {shutil.which("git-lfs")} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'hooks'}:{os.environ['PATH']}")
    if command == "push":
        copy.remotes.push("second", [])
    else:
        copy.write_bundle(tmp_path / "apple.bundle")
    fetched = [line for line in asked.read_text().splitlines() if line.startswith("fetch")]
    assert len(fetched) == 1 and set(copy.store) == set(shared.store)


def test_decay_that_changes_no_time_is_found_before_a_push(shared: Repository) -> None:
    shared.verify()
    oid = next(iter(shared.store))
    path = shared.store.path(oid)
    when = path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(when, when))
    with pytest.raises(ObjectError, match=f"{oid} is corrupt"):
        shared.remotes.push("origin")


def test_a_password_in_a_url_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(RemoteError) as told:
        clone("https://me:SECRET@127.0.0.1:1/x.git", tmp_path / "copy")
    assert "https://127.0.0.1:1/x.git cannot be cloned" in str(told.value)


@pytest.mark.parametrize("own", [False, True], ids=["no commits of its own", "one of its own"])
def test_what_was_taken_out_of_a_remotes_branch_does_not_come_back_by_pulling(
    shared: Repository, remote: Path, tmp_path: Path, add: Add, own: bool
) -> None:
    add(shared, "secret", 0.2)
    shared.remotes.push("origin")
    copy = clone(str(remote), tmp_path / "copy")
    shared.git.plain("reset", "--quiet", "--hard", "HEAD~1")
    add(shared, "public", 0.3)
    shared.git.plain("push", "--quiet", "--force", "origin", "main")
    if own:
        add(copy, "mine", 0.4)
    before = copy.git.head()
    for _ in range(2):  # the second fetches nothing
        with pytest.raises(UsageError, match=r"origin/main was rewritten.*git reset --hard"):
            copy.remotes.pull("origin")
        assert copy.git.head() == before
    if own:
        forked = copy.git.forked_from("origin/main")
        copy.git.plain("rebase", "--quiet", "--onto", "origin/main", forked)
        assert copy.remotes.pull("origin").kind == "up to date"
        assert set(copy.atlas()) == {"apple", "public", "mine"}
    else:
        assert copy.merge("origin/main").kind == "merge"
        assert set(copy.atlas()) == {"apple", "public", "secret"}
        assert copy.remotes.pull("origin").kind == "up to date"
