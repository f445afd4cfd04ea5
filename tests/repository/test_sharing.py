"""Sharing with the real git and git-lfs, and by bundles."""

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import ended, start
from niwfstore import ObjectStore
from tiny import write_data
from typer.testing import Result

from niwfctl.errors import FormatError, ObjectError, RemoteError
from niwfctl.repository import Repository
from niwfctl.repository.bundle import apply, create
from niwfctl.repository.remote import clone
from niwfctl.repository.upkeep import check_all, collect

needs_lfs = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")


def git(path: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", "-C", path, *arguments], text=True)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    path = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", path], check=True)
    return path


@pytest.fixture
def shared(committed: Repository, remote: Path) -> Repository:
    """A repository with a remote to push to."""
    committed.git.plain("branch", "-M", "main")
    committed.git.plain("remote", "add", "origin", str(remote))
    return committed


@needs_lfs
def test_what_plain_git_lfs_pushes_niwfctl_clones(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    git(shared.path, "lfs", "push", "--all", "origin")
    git(shared.path, "push", "-q", "origin", "main")
    clone(str(remote), tmp_path / "copy")
    repository = Repository.open(tmp_path / "copy")
    repository.remotes.fetch("origin")
    assert repository.atlas() == shared.atlas()
    assert repository.verify().ok


@needs_lfs
def test_a_lazy_clone_gets_objects_when_they_are_needed(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.remotes.push("origin", [])
    clone(str(remote), tmp_path / "copy")
    repository = Repository.open(tmp_path / "copy")
    assert not list(repository.store)
    assert repository.load("apple").generate("Say apple 3.", max_new_tokens=2) is not None
    assert len(list(repository.store)) == 4


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
    other = niwfctl("-C", tmp_path, "clone", shared.path, "copy")
    assert other.exit_code == 2 and "not empty" in other.stderr


def test_a_clone_that_fails_leaves_nothing(tmp_path: Path, niwfctl: Callable[..., Result]) -> None:
    result = niwfctl("-C", tmp_path, "clone", "nowhere.git", "copy")
    assert result.exit_code == 14 and "`git clone` failed" in result.stderr
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(RemoteError, match=f"origin took object {entry.region.oid}"):
        shared.remotes.push("origin", [])
    assert not git(remote, "for-each-ref")


@needs_lfs
def test_a_lazy_clone_gets_objects_of_any_commit(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.remove("apple")
    shared.remotes.push("origin", [])
    clone(str(remote), tmp_path / "copy")
    repository = Repository.open(tmp_path / "copy")
    assert repository.load("apple@HEAD~1").active == "apple@HEAD~1"


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
    (found,) = check_all(shared)[1]
    assert found.problem.endswith("origin has it: get it with `niwfctl fetch origin --all`")
    assert oid not in shared.store
    shared.remotes.fetch("origin", everything=True)
    assert not check_all(shared)[1]
    shared.store.remove(oid)
    ObjectStore(remote / "lfs" / "objects").remove(oid)
    (found,) = check_all(shared)[1]
    assert f"{oid} is not in the store, and no remote has it (asked origin)" in found.problem
    with pytest.raises(ObjectError, match=r"no remote has it \(asked origin\)"):
        shared.load("apple")
    git(shared.path, "remote", "set-url", "origin", "http://127.0.0.1:1/gone.git")
    with pytest.raises(ObjectError, match="origin cannot be asked"):
        shared.load("apple")
    git(shared.path, "remote", "remove", "origin")
    with pytest.raises(ObjectError, match="there is no remote that could have it"):
        shared.load("apple")


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
    clone(str(remote), tmp_path / "copy")
    other = Repository.open(tmp_path / "copy")
    other.remotes.fetch("origin")
    other.train("plum", [write_data(tmp_path / "plum.jsonl", word="plum")], QUICK)
    other.commit(["plum"], "Plums")
    other.remotes.push("origin", [])
    shared.rename("apple", "apples")
    merged = shared.remotes.pull("origin")
    assert merged.added == ("plum",)
    assert sorted(shared.atlas()) == ["apples", "plum"]
    assert shared.verify().ok


@pytest.fixture
def bundle(committed: Repository, tmp_path: Path) -> Path:
    create(committed, tmp_path / "apple.niwf", ["apple"])
    return tmp_path / "apple.niwf"


def test_a_bundle_carries_a_capability_without_a_remote(
    fresh: Repository, committed: Repository, bundle: Path
) -> None:
    merged = apply(fresh, bundle)
    assert merged.added == ("apple",)
    assert fresh.atlas() == committed.atlas()
    assert fresh.verify().ok


def rewritten(bundle: Path, change) -> None:
    """Writes the bundle again, each member as `change(name, content)` says."""
    with tarfile.open(bundle) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive.getmembers()]
    with tarfile.open(bundle, "w") as archive:
        for name, content in filter(None, (change(*member) for member in members)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def flipped(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content[:-1] + bytes([content[-1] ^ 1]) if "objects/" in name else content


def huge_header(name: str, content: bytes) -> tuple[str, bytes]:
    """It hashes to its name, as that of whoever means harm would."""
    if "objects/" not in name:
        return name, content
    hostile = b"\xff" * 7 + b"\x7f" + content[8:]
    return f"objects/{hashlib.sha256(hostile).hexdigest()}", hostile


def escaping(name: str, content: bytes) -> tuple[str, bytes]:
    return name.replace("objects/", "../outside/"), content


def absolute(name: str, content: bytes) -> tuple[str, bytes]:
    return name.replace("objects/", "/tmp/niwfctl-outside/"), content


def newer(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content.replace(b'"format":1', b'"format":9')


def no_object(name: str, content: bytes) -> tuple[str, bytes]:
    """A commit that git would take for an option."""
    return name, re.sub(rb'"commit":"[0-9a-f]{9}', b'"commit":"--upload=', content)


def another_commit(name: str, content: bytes) -> tuple[str, bytes]:
    return name, re.sub(rb'"commit":"[0-9a-f]{9}', b'"commit":"123456789', content)


def a_list(name: str, content: bytes) -> tuple[str, bytes]:
    return name, b"[]" if name == "bundle.json" else content


def no_history(name: str, content: bytes) -> tuple[str, bytes]:
    return name, b"# v2 git bundle\n" if name == "history" else content


CHANGES = [flipped, huge_header, escaping, absolute, newer]
CHANGES += [no_object, another_commit, a_list, no_history]


@pytest.mark.parametrize("change", CHANGES)
def test_a_bundle_that_is_not_whole_changes_nothing(
    fresh: Repository, bundle: Path, change
) -> None:
    rewritten(bundle, change)
    before = fresh.git.plain("for-each-ref"), list(fresh.store)
    with pytest.raises((FormatError, ObjectError), match=r"bundle|format"):
        apply(fresh, bundle)
    assert (fresh.git.plain("for-each-ref"), list(fresh.store)) == before
    assert not Path("/tmp/niwfctl-outside").exists()


def test_a_bundle_that_lacks_any_object_of_its_capabilities_is_refused(
    fresh: Repository, committed: Repository, bundle: Path
) -> None:
    whole = bundle.read_bytes()
    before = fresh.git.plain("for-each-ref"), list(fresh.store)
    for ref in committed.capability("apple").objects:
        bundle.write_bytes(whole)
        rewritten(bundle, lambda name, content, oid=ref.oid: oid not in name and (name, content))
        with pytest.raises(FormatError, match=f"{ref.oid} is neither in it nor here"):
            apply(fresh, bundle)
        assert (fresh.git.plain("for-each-ref"), list(fresh.store)) == before


def test_a_bundle_of_a_revision_brings_the_objects_of_all_its_history(
    fresh: Repository, committed: Repository, tmp_path: Path, niwfctl: Callable[..., Result]
) -> None:
    committed.remove("apple")
    committed.git.plain("tag", "v1")
    made = niwfctl("-C", committed.path, "bundle", "create", tmp_path / "v1.niwf", "v1")
    assert made.exit_code == 0 and made.stdout.endswith("no capabilities yet\n")
    done = niwfctl("-C", fresh.path, "bundle", "apply", tmp_path / "v1.niwf")
    assert done.exit_code == 0 and "fast-forward" in done.stdout
    fresh.rollback("apple")
    assert fresh.verify().ok and not check_all(fresh)[1]


def test_a_bundle_takes_capabilities_as_they_were_at_a_revision(
    fresh: Repository, committed: Repository, tmp_path: Path, niwfctl: Callable[..., Result]
) -> None:
    committed.rename("apple", "pear")

    def make(*targets: str) -> Result:
        return niwfctl("-C", committed.path, "bundle", "create", tmp_path / "b.niwf", *targets)

    assert make("apple@HEAD~1", "pear").exit_code == 0
    assert apply(fresh, tmp_path / "b.niwf").added == ("apple", "pear")
    assert fresh.verify().ok
    for targets, code, words in (
        (["apple"], 4, "neither a capability nor a commit is called 'apple'"),
        (["pear", "HEAD~1"], 4, "no capability is called 'HEAD~1'"),
        (["apple@HEAD"], 4, "no capability is called 'apple'"),
        (["pear", "pear@HEAD"], 2, "one capability of a name"),
    ):
        refused = make(*targets)
        assert (refused.exit_code, refused.stderr.count("\n")) == (code, 1)
        assert words in refused.stderr


def test_a_bundle_that_conflicts_says_how_to_merge_it(
    committed: Repository, fresh: Repository, tmp_path: Path, niwfctl: Callable[..., Result], add
) -> None:
    create(committed, tmp_path / "apple.niwf", ["apple"])
    add(fresh, "apple", 0.5)
    theirs = committed.capability("apple").unrouted
    result = niwfctl("-C", fresh.path, "bundle", "apply", tmp_path / "apple.niwf")
    assert result.exit_code == 13
    revision = re.search(r"`niwfctl merge (\w+) --ours`", result.stderr)[1]
    assert niwfctl("-C", fresh.path, "merge", revision, "--rename", "pear").exit_code == 0
    assert fresh.capability("pear").unrouted.regions == theirs.regions
    assert fresh.verify().ok


def test_gc_beside_a_bundle_that_is_taken_in_removes_nothing_of_it(
    fresh: Repository, committed: Repository, tmp_path: Path
) -> None:
    create(committed, tmp_path / "apple.niwf", ["apple"])

    def clean() -> None:
        while not (tmp_path / "done").exists():
            collect(Repository.open(fresh.path), 0.0, False)

    cleaning = start(clean)
    start_of_it = fresh.git.head()
    for _ in range(5):
        apply(fresh, tmp_path / "apple.niwf")
        assert not check_all(fresh)[1]
        git(fresh.path, "reset", "-q", "--hard", start_of_it)
        git(fresh.path, "reflog", "expire", "--expire=now", "--all")
        collect(fresh, 0.0, False)
    (tmp_path / "done").touch()
    assert ended(cleaning) == 0


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_bundle_holds_plain_files_only(fresh: Repository, bundle: Path, kind: bytes) -> None:
    with tarfile.open(bundle, "a") as archive:
        info = tarfile.TarInfo(f"objects/{'0' * 64}")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(FormatError, match="has no place"):
        apply(fresh, bundle)


def test_a_bundle_of_one_capability_brings_no_other(
    fresh: Repository, committed: Repository, tmp_path: Path, evidence: Callable[..., dict]
) -> None:
    committed.rename("apple", "pear")
    committed.rollback("apple", to="HEAD~1")
    refs = committed.git.plain("for-each-ref")
    create(committed, tmp_path / "pear.niwf", ["pear"])
    assert committed.git.plain("for-each-ref") == refs and not committed.changes()
    assert apply(fresh, tmp_path / "pear.niwf").added == ("pear",)
    assert sorted(fresh.atlas()) == ["pear"]
    assert evidence(fresh, "pear") == evidence(committed, "pear")
    assert fresh.verify().ok and not check_all(fresh)[1]
    assert apply(committed, tmp_path / "pear.niwf").added == ()
    assert sorted(committed.atlas()) == ["apple", "pear"]


def test_a_truncated_bundle_is_refused(fresh: Repository, bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-20_000])
    with pytest.raises(FormatError, match="not a whole niwfctl bundle"):
        apply(fresh, bundle)
