"""Bundles: capabilities, their history and their objects as one file."""

import hashlib
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import ended, run_git, start
from histories import cut
from typer.testing import Result

from niwfctl.errors import FormatError, ObjectError
from niwfctl.repository import Repository
from niwfctl.repository.bundle import apply, create
from niwfctl.repository.upkeep import check_all, collect


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


def test_a_bundle_is_cloned_without_a_remote(
    niwfctl: Callable[..., Result], committed: Repository, tmp_path: Path
) -> None:
    create(committed, tmp_path / "all.bundle")
    done = niwfctl("-C", tmp_path, "clone", "all.bundle")
    assert done.exit_code == 0, done.stderr
    repository = Repository.open(tmp_path / "all")
    assert repository.git.head() == committed.git.head() and repository.git.branch()
    assert repository.atlas() == committed.atlas() and repository.verify(deep=True).ok
    assert repository.changes() == [] and not repository.remotes.urls()
    again = niwfctl("-C", tmp_path, "clone", "all.bundle")
    assert again.exit_code == 2 and "not empty" in again.stderr


def test_a_clone_of_a_damaged_bundle_leaves_nothing(
    niwfctl: Callable[..., Result], bundle: Path, tmp_path: Path
) -> None:
    rewritten(bundle, flipped)
    before = sorted(tmp_path.iterdir())
    assert niwfctl("clone", bundle, tmp_path / "copy").exit_code == 8
    assert sorted(tmp_path.iterdir()) == before


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
        with pytest.raises(FormatError, match=f"{ref.oid} is neither in the bundle nor here"):
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
    assert fresh.verify().ok and not check_all(fresh).damage


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
        (["apple"], 4, "a tag nor a commit is called 'apple'"),
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
        assert not check_all(fresh).damage
        run_git(fresh.path, "reset", "-q", "--hard", start_of_it)
        run_git(fresh.path, "reflog", "expire", "--expire=now", "--all")
        collect(fresh, 0.0, False)
    (tmp_path / "done").touch()
    assert ended(cleaning) == 0


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_bundle_holds_plain_files_only(fresh: Repository, bundle: Path, kind: bytes) -> None:
    with tarfile.open(bundle, "a") as archive:
        info = tarfile.TarInfo(f"objects/{'0' * 64}")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(FormatError, match="does not belong"):
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
    assert fresh.verify().ok and not check_all(fresh).damage
    assert apply(committed, tmp_path / "pear.niwf").added == ()
    assert sorted(committed.atlas()) == ["apple", "pear"]


def test_a_bundle_of_one_capability_brings_no_other_where_history_begins_with_all(
    fresh: Repository, committed: Repository, tmp_path: Path, add: Callable[..., str]
) -> None:
    add(committed, "secret", 0.3)
    secret = committed.capability("secret").unrouted
    cut(committed)
    create(committed, tmp_path / "apple.niwf", ["apple"])
    shared = committed.capability("apple").objects
    with tarfile.open(tmp_path / "apple.niwf") as archive:
        names = archive.getnames()
    for ref in secret.objects:
        assert ref in shared or f"objects/{ref.oid}" not in names
    assert apply(fresh, tmp_path / "apple.niwf").added == ("apple",)
    assert sorted(fresh.atlas()) == ["apple"]
    merged = fresh.git.resolve("HEAD^2")
    assert fresh.git.files(merged, "capabilities").keys() == {"capabilities/apple.json"}
    assert fresh.verify().ok and not check_all(fresh).damage


def test_a_bundle_of_one_capability_brings_nothing_of_the_project_that_it_lies_in(
    backbone: Path, tmp_path: Path, add: Callable[..., str]
) -> None:
    project = tmp_path / "project"
    run_git(tmp_path, "init", "--quiet", str(project))
    (project / "secret").write_text("it is")
    run_git(project, "add", "secret")
    run_git(project, "commit", "--quiet", "-m", "Secret")
    joined = Repository.init(project, model=str(backbone), dim=8)
    other = Repository.clone(str(project), tmp_path / "other")
    add(joined, "x")
    (other.path / "niwf.toml").write_text((other.path / "niwf.toml").read_text() + "\n# ours\n")
    run_git(other.path, "commit", "--quiet", "--all", "-m", "Ours")
    create(joined, tmp_path / "x.niwf", ["x"])
    assert apply(other, tmp_path / "x.niwf").added == ("x",)
    brought = other.git.resolve("HEAD^2")
    assert "secret" not in other.git.files(brought, ".")
    assert other.git.plain("rev-list", "--count", brought) == "1"
    assert (other.path / "niwf.toml").read_text().endswith("# ours\n")
    assert (other.path / "secret").exists() and not other.changes()
    assert other.verify().ok and not check_all(other).damage


def test_a_shallow_clone_makes_no_bundle_and_says_what_it_lacks(
    committed: Repository, tmp_path: Path, niwfctl: Callable[..., Result]
) -> None:
    committed.rename("apple", "pear")
    url = committed.path.as_uri()
    run_git(tmp_path, "-c", "protocol.file.allow=always", "clone", "-q", "--depth=1", url, "copy")
    for targets in ([], ["pear"]):
        command = ("bundle", "create", tmp_path / "b.niwf", *targets)
        refused = niwfctl("-C", tmp_path / "copy", *command)
        assert refused.exit_code == 2 and "git fetch --unshallow" in refused.stderr
        assert not (tmp_path / "b.niwf").exists()


def test_a_truncated_bundle_is_refused(fresh: Repository, bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-20_000])
    with pytest.raises(FormatError, match="not a complete niwfctl bundle"):
        apply(fresh, bundle)


@pytest.mark.parametrize("part", ["bundle.json", "history", "objects"])
def test_a_bundle_without_one_of_its_parts_says_which(
    fresh: Repository, bundle: Path, part: str
) -> None:
    rewritten(bundle, lambda name, content: None if name.startswith(part) else (name, content))
    with pytest.raises(FormatError, match=f"not a complete niwfctl bundle: it has no {part}"):
        apply(fresh, bundle)


def test_a_bundle_says_nothing_of_who_made_it_and_when(bundle: Path) -> None:
    with tarfile.open(bundle) as archive:
        said = {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in archive.getmembers()}
    assert said == {(0, 0, "", "", 0, 0o644)}


def test_a_release_travels_by_its_name(
    committed: Repository, add: Callable[..., str], tmp_path: Path
) -> None:
    git = committed.git
    git.plain("branch", "--move", "trunk")
    git.plain("tag", "--annotate", "v1", "-m", "The first release")
    add(committed, "plum", 0.2)
    git.plain("tag", "v2")
    git.plain("checkout", "--quiet", "-b", "side", "v1")
    git.plain("commit", "--quiet", "--allow-empty", "-m", "Aside")
    git.plain("tag", "aside")
    create(committed, tmp_path / "trunk.bundle", ["trunk"])
    create(committed, tmp_path / "v1.bundle", ["v1"])
    create(committed, tmp_path / "plum.bundle", ["plum@trunk"])
    copy = Repository.clone(str(tmp_path / "trunk.bundle"), tmp_path / "trunk")
    assert copy.git.branch() == "trunk"
    tags = copy.git.plain("show-ref", "--tags", "--dereference").splitlines()
    known = git.plain("show-ref", "--tags", "--dereference").splitlines()
    assert tags == [line for line in known if "aside" not in line] != known
    assert copy.verify(revision="v1").ok and copy.verify(revision="v2").ok
    older = Repository.clone(str(tmp_path / "v1.bundle"), tmp_path / "v1")
    assert [ref.name for ref in older.git.refs("tags")] == ["v1"]
    older.git.plain("tag", "v2")  # another one of that name
    own = older.git.resolve("v2")
    assert older.apply_bundle(tmp_path / "trunk.bundle").added == ("plum",)
    assert older.git.resolve("v2") == own
    alone = Repository.clone(str(tmp_path / "plum.bundle"), tmp_path / "plum")
    assert alone.git.refs("tags") == []


@pytest.mark.parametrize("name", ["refs/heads/main", "refs/tags/v1"])
def test_a_bundles_history_holds_only_the_commit_it_states_and_tags_below_it(
    fresh: Repository, committed: Repository, bundle: Path, tmp_path: Path, name: str
) -> None:
    git = committed.git
    git.plain("commit", "--quiet", "--allow-empty", "-m", "Not below it")
    with tarfile.open(bundle) as archive:
        commit = re.search(rb'"commit":"(\w+)"', archive.extractfile("bundle.json").read())[1]
    git.plain("update-ref", "refs/niwf/bundle", commit.decode())
    git.plain("update-ref", name, git.head())
    git.plain("bundle", "create", "--quiet", str(tmp_path / "other"), "refs/niwf/bundle", name)
    forged = (tmp_path / "other").read_bytes()
    rewritten(bundle, lambda name, content: (name, forged if name == "history" else content))
    before = fresh.git.plain("for-each-ref"), list(fresh.store)
    with pytest.raises(FormatError, match=r"its history|of its history"):
        apply(fresh, bundle)
    assert (fresh.git.plain("for-each-ref"), list(fresh.store)) == before


def test_a_bundle_of_a_branch_that_git_would_not_name_so_is_refused(
    committed: Repository, tmp_path: Path
) -> None:
    create(committed, tmp_path / "all.bundle")
    rewritten(
        tmp_path / "all.bundle",
        lambda name, content: (name, re.sub(rb'"branch":"\w+"', b'"branch":"a..b"', content)),
    )
    with pytest.raises(FormatError, match="bundle"):
        Repository.clone(str(tmp_path / "all.bundle"), tmp_path / "all")
    assert not (tmp_path / "all").exists()
