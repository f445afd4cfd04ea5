"""Sharing with the real git and git-lfs."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from niwfstore import ObjectStore
from tiny import write_data
from typer.testing import Result

from niwfctl.cli.share import folder_name
from niwfctl.errors import ObjectError, RemoteError, UnknownName, UsageError
from niwfctl.repository import Repository
from niwfctl.repository.clone import clone
from niwfctl.repository.upkeep import check_all

needs_lfs = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")


def git(path: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", "-C", path, *arguments], text=True)


@needs_lfs
def test_what_plain_git_lfs_pushes_niwfctl_clones(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    git(shared.path, "lfs", "push", "--all", "origin")
    git(shared.path, "push", "-q", "origin", "main")
    repository = clone(str(remote), tmp_path / "copy")
    assert repository.atlas() == shared.atlas()
    assert repository.verify().ok


@needs_lfs
def test_clones_that_only_pull_stay_at_the_remotes_commit_whatever_its_routing(
    shared: Repository, remote: Path, tmp_path: Path, add: Callable[..., str]
) -> None:
    add(shared, "banana", 0.1)
    shared.remove("apple")  # and what was settled beside it would be settled otherwise now
    shared.remotes.push("origin", [])
    for name in ("one", "two"):
        repository = clone(str(remote), tmp_path / name)
        assert repository.remotes.pull("origin").kind == "up to date"
        assert repository.git.head() == shared.git.head()


@needs_lfs
def test_a_lazy_clone_gets_objects_when_they_are_needed(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.remotes.push("origin", [])
    repository = clone(str(remote), tmp_path / "copy", lazy=True)
    assert not list(repository.store)
    assert repository.load("apple").generate("Say apple 3.", max_new_tokens=2) is not None
    assert len(list(repository.store)) == 4


@needs_lfs
def test_a_lazy_clone_asks_once_for_all_that_a_command_needs(
    shared: Repository,
    remote: Path,
    tmp_path: Path,
    add: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(shared, "banana", 0.1)
    add(shared, "cherry", 0.2)
    shared.remotes.push("origin", [])
    repository = clone(str(remote), tmp_path / "copy", lazy=True)
    tools, asked = tmp_path / "tools", tmp_path / "asked"
    tools.mkdir()
    (tools / "git-lfs").write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\nexec {shutil.which("git-lfs")} "$@"\n'
    )
    (tools / "git-lfs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    assert repository.verify().ok
    fetched = [line for line in asked.read_text().splitlines() if line.startswith("fetch")]
    objects = {ref.oid for one in repository.atlas().values() for ref in one.objects}
    assert len(objects) > 3 and len(fetched) == 2  # all objects, and the coordinate map
    assert any(all(oid in line for oid in objects) for line in fetched)


@needs_lfs
def test_a_clone_that_stopped_among_its_objects_goes_on(
    shared: Repository, remote: Path, tmp_path: Path, niwfctl: Callable[..., Result]
) -> None:
    shared.remotes.push("origin", [])
    there = ObjectStore(remote / "lfs" / "objects")
    path = there.path(shared.capability("apple").regions[0].region.oid)
    path.rename(tmp_path / "hidden")
    assert niwfctl("-C", tmp_path, "clone", "remote.git", "copy").exit_code == 14
    (tmp_path / "hidden").rename(path)
    assert niwfctl("-C", tmp_path, "clone", "remote.git", "copy").exit_code == 0
    assert Repository.open(tmp_path / "copy").verify().ok
    again = niwfctl("-C", tmp_path, "clone", "remote.git", "copy")
    assert again.exit_code == 2 and "get what is new there with `niwfctl pull`" in again.stderr
    other = niwfctl("-C", tmp_path, "clone", shared.path, "copy")
    assert other.exit_code == 2 and "not empty" in other.stderr


@needs_lfs
def test_a_clone_calls_its_remote_origin_whatever_git_is_told(
    shared: Repository, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.remotes.push("origin", [])
    for name, value in (("COUNT", "1"), ("KEY_0", "clone.defaultRemoteName"), ("VALUE_0", "up")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    copy = clone(str(remote), tmp_path / "copy")
    assert copy.git.plain("remote") == "origin" and copy.verify().ok


def test_a_clone_that_fails_leaves_nothing(tmp_path: Path, niwfctl: Callable[..., Result]) -> None:
    result = niwfctl("-C", tmp_path, "clone", "nowhere.git", "copy")
    assert result.exit_code == 14 and "cannot be cloned" in result.stderr
    assert not list(tmp_path.iterdir())
    subprocess.run(["git", "init", "-q", tmp_path / "empty"], check=True)
    subprocess.run(["git", "init", "-q", tmp_path / "other"], check=True)
    git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "Something else")
    for url in ("empty", "other"):
        result = niwfctl("-C", tmp_path, "clone", url, "copy")
        assert result.exit_code == 3 and f"{url} is not a niwfctl repository" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "other"]


@needs_lfs
def test_an_empty_folder_becomes_a_clone_except_the_current_one(
    shared: Repository, tmp_path: Path, niwfctl: Callable[..., Result], monkeypatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for where in (".", tmp_path / "empty"):
        result = niwfctl("clone", "--lazy", shared.path, where)
        assert result.exit_code == 2 and "is the current folder" in result.stderr
    assert not list(tmp_path.rglob(".clone-*"))
    monkeypatch.chdir(tmp_path)
    assert niwfctl("-C", "empty", "clone", "--lazy", shared.path, ".").exit_code == 0
    monkeypatch.chdir(tmp_path / "empty")
    again = niwfctl("clone", "--lazy", shared.path, ".")
    assert again.exit_code == 2 and "already is a clone of" in again.stderr
    assert niwfctl("clone", shared.path, ".").exit_code == 0  # which gets the objects
    assert niwfctl("clone", shared.path, ".").exit_code == 2


@pytest.mark.parametrize(
    "url",
    ["host:copy.git", "ssh://me@host:22/a/copy.git/", "/a/copy/.git", "a/copy/.git/", "copy/"],
)
def test_a_clone_is_named_as_git_names_it(url: str) -> None:
    assert folder_name(url) == "copy"


def test_a_clone_of_what_holds_no_name_asks_for_one(niwfctl: Callable[..., Result]) -> None:
    result = niwfctl("clone", "/")
    assert result.exit_code == 2 and "no name" in result.stderr


@needs_lfs
def test_a_clone_takes_the_only_branch_where_the_remote_names_another(
    shared: Repository, remote: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    git(remote, "symbolic-ref", "HEAD", "refs/heads/master")
    shared.remotes.push("origin", [])
    capfd.readouterr()
    repository = clone(str(remote), tmp_path / "copy")
    assert "warning" not in capfd.readouterr().err
    assert repository.git.branch() == "main" and repository.verify().ok
    assert not git(repository.path, "status", "--porcelain")
    assert repository.remotes.pull("origin").kind == "up to date"
    git(remote, "branch", "side", "main")
    with pytest.raises(UsageError, match="has main, side, but its HEAD is none of them"):
        clone(str(remote), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_remote_or_ref_that_is_not_there_is_named(
    shared: Repository, niwfctl: Callable[..., Result]
) -> None:
    for command, word in (
        (["push", "nowhere"], "nowhere"),
        (["pull", "nowhere"], "nowhere"),
        (["fetch", "nowhere"], "nowhere"),
        (["push", "origin", "nothing"], "nothing"),
    ):
        result = niwfctl("-C", shared.path, *command)
        assert (result.exit_code, result.stderr.count("\n")) == (4, 1)
        assert f"{word!r}" in result.stderr


@needs_lfs
def test_nothing_is_sent_where_the_pre_push_hook_says_no_and_it_is_asked_once(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    hook = shared.git.folder / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho $1 >> {asked}\ncat >> {asked}\n[ -e {tmp_path}/yes ]\n")
    hook.chmod(0o755)
    with pytest.raises(RemoteError, match=r"hook refused .*nothing was sent"):
        shared.remotes.push("origin", [])
    assert asked.read_text().split()[:3] == ["origin", "refs/heads/main", shared.git.head()]
    assert not git(remote, "for-each-ref") and not (remote / "lfs").exists()
    asked.unlink()
    (tmp_path / "yes").touch()
    shared.remotes.push("origin", [])
    assert asked.read_text().count("origin") == 1
    assert git(remote, "for-each-ref")


@needs_lfs
def test_nothing_is_sent_where_the_remote_has_moved_on(
    shared: Repository, remote: Path, fresh: Repository
) -> None:
    git(fresh.path, "commit", "-q", "--allow-empty", "-m", "Someone else")
    git(fresh.path, "push", "-q", "--no-verify", str(remote), "HEAD:main")
    before = git(remote, "for-each-ref")
    with pytest.raises(RemoteError, match=r"not here .*nothing was sent; .*`niwfctl pull`"):
        shared.remotes.push("origin", [])
    assert git(remote, "for-each-ref") == before and not (remote / "lfs").exists()


@needs_lfs
def test_a_remote_that_was_made_anew_gets_every_object_again(
    shared: Repository, remote: Path
) -> None:
    sent = shared.remotes.push("origin", [])
    shutil.rmtree(remote)
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", remote], check=True)
    assert shared.remotes.push("origin", []) == sent
    assert set(ObjectStore(remote / "lfs" / "objects")) == set(shared.store)


@needs_lfs
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_nothing_is_pushed_when_an_object_is_not_whole(
    shared: Repository, remote: Path, damage: str
) -> None:
    path = shared.store.path(shared.capability("apple").regions[0].bases[0].oid)
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flipped":
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(ObjectError):
        shared.remotes.push("origin", [])
    assert not git(remote, "for-each-ref")


@needs_lfs
def test_nothing_but_objects_is_pushed_until_the_remote_shows_that_it_has_them(
    shared: Repository, remote: Path
) -> None:
    shared.remotes.push("origin", [])
    git(remote, "update-ref", "-d", "refs/heads/main")
    git(shared.path, "update-ref", "-d", "refs/remotes/origin/main")
    (entry,) = shared.capability("apple").regions
    there = ObjectStore(remote / "lfs" / "objects").path(entry.region.oid)
    size = there.stat().st_size
    there.unlink()  # it may be a link to ours
    there.write_bytes(bytes(size))  # git-lfs looks at the size only
    with pytest.raises(RemoteError, match=f"origin accepted object {entry.region.oid}"):
        shared.remotes.push("origin", [])
    assert not git(remote, "for-each-ref")


@needs_lfs
def test_a_lazy_clone_gets_objects_of_any_commit(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.remove("apple")
    shared.remotes.push("origin", [])
    repository = clone(str(remote), tmp_path / "copy", lazy=True)
    assert repository.load("apple@HEAD~1").adapter.active


def damage(repository: Repository) -> tuple[str, Path]:
    """Flips a bit of an object; returns its id and path."""
    oid = repository.capability("apple").regions[0].bases[0].oid
    path = repository.store.path(oid)
    content = path.read_bytes()
    path.unlink()  # the remote's may be a link to it
    path.write_bytes(content[:-1] + b"!")
    return oid, path


@needs_lfs
def test_a_corrupt_object_is_put_aside_and_fetched_again(
    shared: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    shared.remotes.push("origin", [])
    for use in (shared.load, lambda name: shared.verify([name]), lambda _: check_all(shared)):
        oid, path = damage(shared)
        damaged = path.read_bytes()
        use("apple")
        assert shared.verify().ok
        assert (shared.private / "quarantine" / oid).read_bytes() == damaged
        assert oid in caplog.text and "fetched again" in caplog.text
        caplog.clear()


def test_a_corrupt_object_that_nobody_has_is_put_aside_and_refused(committed: Repository) -> None:
    oid, path = damage(committed)
    kept = committed.private / "quarantine" / oid
    with pytest.raises(ObjectError, match=f"{oid} is corrupt.*{kept}.*there is no remote"):
        committed.load("apple")
    assert kept.is_file() and not path.exists()


def test_an_object_of_another_size_than_its_manifest_says_stays_where_it_is(
    committed: Repository,
) -> None:
    ref = committed.capability("apple").regions[0].region
    with pytest.raises(ObjectError, match="changed by hand"):
        committed.object_path(ref.oid, ref.size + 1)
    assert committed.verify().ok


@needs_lfs
def test_a_missing_object_is_told_with_who_has_it(shared: Repository, remote: Path) -> None:
    shared.remotes.push("origin", [])
    oid = shared.capability("apple").regions[0].bases[0].oid
    shared.store.remove(oid)
    found = check_all(shared)
    assert found.elsewhere == ((oid, "origin"),) and not found.damage
    assert oid not in shared.store
    shared.remotes.fetch("origin", everything=True)
    assert not check_all(shared).elsewhere
    shared.store.remove(oid)
    ObjectStore(remote / "lfs" / "objects").remove(oid)
    (found,) = check_all(shared).damage
    assert f"{oid} is not in the store, and no remote has it (asked origin)" in found.problem
    with pytest.raises(ObjectError, match=r"no remote has it \(asked origin\)"):
        shared.load("apple")
    git(shared.path, "remote", "set-url", "origin", "http://127.0.0.1:1/gone.git")
    with pytest.raises(ObjectError, match="origin cannot be asked"):
        shared.load("apple")
    git(shared.path, "remote", "remove", "origin")
    with pytest.raises(ObjectError, match="there is no remote to fetch it from"):
        shared.load("apple")


@needs_lfs
def test_fsck_of_a_fresh_clone_says_which_objects_of_history_the_remote_has(
    shared: Repository, remote: Path, tmp_path: Path, niwfctl: Callable[..., Result]
) -> None:
    shared.remove("apple")
    shared.remotes.push("origin", [])
    copy = clone(str(remote), tmp_path / "copy").path
    done = niwfctl("-C", copy, "fsck")
    assert done.exit_code == 0 and "origin has them: get them with" in done.stdout
    done = niwfctl("-C", copy, "fetch", "--all")
    done = niwfctl("-C", copy, "fsck", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["elsewhere"] == []


@needs_lfs
def test_checkout_of_a_branch_that_only_the_remote_has_makes_one_that_tracks_it(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.git.plain("branch", "side")
    shared.remove("apple")
    shared.remotes.push("origin", ["main", "side"])
    copy = clone(str(remote), tmp_path / "copy")
    assert not copy.atlas()
    assert copy.checkout("side").startswith("at side (")
    assert set(copy.atlas()) == {"apple"}
    assert git(copy.path, "rev-parse", "--abbrev-ref", "side@{upstream}").strip() == "origin/side"
    copy.git.plain("remote", "add", "other", str(remote))
    copy.remotes.fetch("other", lazy=True)
    copy.checkout("main")
    copy.git.plain("branch", "--delete", "--force", "side")
    with pytest.raises(UsageError, match="matched multiple"):
        copy.checkout("side")
    with pytest.raises(UnknownName, match="neither a capability, a branch"):
        copy.checkout("objects")


def test_a_missing_git_lfs_is_one_sentence(shared: Repository, tmp_path: Path, monkeypatch) -> None:
    only_git = tmp_path / "bin"
    only_git.mkdir()
    (only_git / "git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(only_git))
    with pytest.raises(RemoteError, match="git-lfs is not installed"):
        shared.remotes.push("origin", [])


@needs_lfs
def test_pull_merges_what_another_pushed(shared: Repository, remote: Path, tmp_path: Path) -> None:
    from conftest import QUICK

    shared.remotes.push("origin", [])
    other = clone(str(remote), tmp_path / "copy")
    other.train("plum", [write_data(tmp_path / "plum.jsonl", word="plum")], QUICK)
    other.commit(["plum"], "Plums")
    other.remotes.push("origin", [])
    shared.rename("apple", "apples")
    merged = shared.remotes.pull("origin")
    assert merged.added == ("plum",)
    assert sorted(shared.atlas()) == ["apples", "plum"]
    assert shared.verify().ok
