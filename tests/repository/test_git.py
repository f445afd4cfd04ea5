"""What git is asked is understood, whatever is configured, written or damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import crowd
from faults import run_git

from niwfctl.errors import GitError, NotARepository, UsageError
from niwfctl.layout import manifest_file, object_file
from niwfctl.repository import Repository
from niwfctl.repository.upkeep import check_all, collect

Add = Callable[..., str]
Harm = Callable[[Path], object]

ODD = "Odd\x0c\x1c\x1d\x1e\x1f\x85\u2028subject"


def test_no_configuration_alters_what_is_read(committed: Repository, add: Add) -> None:
    run_git(committed.path, "checkout", "-q", "-b", "side", "HEAD~1")
    add(committed, "x", 0.1)
    committed.merge(run_git(committed.path, "rev-parse", "@{-1}"))
    (committed.path / manifest_file("x")).write_text("{}")
    graph, changes = committed.history.graph(), committed.git.changes()
    assert changes == [" M capabilities/x.json"] and any(not commit for _, commit in graph)
    for name in ("status.branch", "log.showSignature"):
        run_git(committed.path, "config", name, "true")
    run_git(committed.path, "config", "color.ui", "always")
    assert committed.git.changes() == changes
    assert committed.history.graph() == graph


def test_a_message_and_an_author_may_hold_any_character(committed: Repository) -> None:
    before = committed.history.log()
    message = f"{ODD}\n\n{ODD}"
    author = "--author=A\x1fd\x1ea <ada@example.org>"
    run_git(committed.path, "commit", "-q", "--allow-empty", "-m", message, author)
    run_git(committed.path, "tag", "odd")
    run_git(committed.path, "tag", "-a", "-m", ODD, "noted")
    newest, *others = committed.history.log()
    assert (newest.message, newest.author, newest.changes) == (message, "A\x1fd\x1ea", ())
    assert [(one.id, one.message, one.changes) for one in others] == [
        (one.id, one.message, one.changes) for one in before
    ]
    head = committed.git.head()
    assert committed.git.refs("tags") == [("noted", head, ODD), ("odd", head, ODD)]
    committed.remove("apple")
    committed.rollback("apple")
    assert set(committed.atlas()) == {"apple"}


def test_a_branch_name_may_hold_line_separators(committed: Repository) -> None:
    run_git(committed.path, "branch", "a\u2028b")
    assert committed.git.names("a\u2028b") == ["refs/heads/a\u2028b"]
    assert "a\u2028b" in [ref.name for ref in committed.git.refs("heads")]


def test_the_configuration_is_that_of_head_whatever_moved_it(fresh: Repository) -> None:
    git, main, file = fresh.git.plain, fresh.git.branch(), fresh.path / "niwf.toml"
    git("checkout", "-q", "-b", "side")
    file.write_text(file.read_text().replace("max_takeover = 0.02", "max_takeover = 0.5"))
    git("commit", "-qam", "Other limits")
    git("checkout", "-q", main)

    def limit() -> float:
        return fresh.config.routing.max_takeover

    assert limit() == 0.02
    fresh.merge("side")
    assert limit() == 0.5
    fresh.operations.undo()
    assert limit() == 0.02
    git("pack-refs", "--all")
    git("checkout", "-q", "--detach", "side")
    assert limit() == 0.5
    git("symbolic-ref", "refs/heads/other", f"refs/heads/{main}")
    git("checkout", "-q", "other")
    assert limit() == 0.02
    git("update-ref", f"refs/heads/{main}", "side")
    assert limit() == 0.5


def test_a_path_with_any_characters_is_committed_and_put_into_the_index_as_it_is(
    committed: Repository,
) -> None:
    git, path = committed.git, 'objects/"a\n\tß\\"'
    new = git.commit({path: b"x"}, "Odd", [git.head()])
    assert path in git.files(new, "objects")
    git.sync(new, [path])
    git.advance(new, git.head(), "odd")
    assert (committed.path / path).read_bytes() == b"x"
    assert run_git(committed.path, "status", "--porcelain") == ""


def removing(repository: Repository, add: Add) -> object:
    return repository.remove("apple")


def renaming(repository: Repository, add: Add) -> object:
    return repository.rename("apple", "pear")


def rolling_back(repository: Repository, add: Add) -> object:
    return repository.rollback(to="HEAD~1")


def adding(repository: Repository, add: Add) -> object:
    return add(repository, "pear")


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize(
    ("work", "name"),
    [
        (removing, "apple"),
        (renaming, "apple"),
        (rolling_back, "apple"),
        (renaming, "pear"),
        (adding, "pear"),
    ],
)
def test_no_commit_overwrites_local_changes(
    committed: Repository, add: Add, work: Callable[..., object], name: str, staged: bool
) -> None:
    file, head = committed.path / manifest_file(name), committed.git.head()
    file.write_text("mine")
    if staged:
        run_git(committed.path, "add", manifest_file(name))
    before = committed.git.changes()
    with pytest.raises(UsageError, match=rf"{manifest_file(name)} would be lost.*git stash"):
        work(committed, add)
    assert file.read_text() == "mine"
    assert committed.git.changes() == before and committed.git.head() == head
    run_git(committed.path, "stash", "--quiet", "--include-untracked")
    work(committed, add)
    assert committed.git.changes() == []


def test_changes_beside_what_a_commit_writes_do_not_stop_it(committed: Repository) -> None:
    (committed.path / manifest_file("note")).write_text("mine")
    committed.path.joinpath(manifest_file("apple")).unlink()  # nothing in it can be lost
    committed.rename("apple", "pear")
    assert committed.git.changes() == [f"?? {manifest_file('note')}"]


def in_the_beginning(file: Path) -> None:
    file.write_bytes(b"xx" + file.read_bytes()[2:])


def at_the_end(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def harmed(repository: Repository, name: str, harm: Harm) -> str:
    """Damages the loose object of that name; its id."""
    found = run_git(repository.path, "rev-parse", name)
    file = repository.git.common / "objects" / found[:2] / found[2:]
    file.chmod(0o644)
    harm(file)
    return found


@pytest.mark.parametrize("harm", [in_the_beginning, at_the_end, Path.unlink])
def test_a_damaged_manifest_is_named_with_how_to_get_it_back(
    committed: Repository, add: Add, tmp_path: Path, harm: Harm
) -> None:
    add(committed, "x", 0.1)
    other = str(tmp_path / "other")
    run_git(committed.path, "clone", "-q", "--no-local", "--bare", ".", other)
    run_git(committed.path, "remote", "add", "origin", other)
    blob = harmed(committed, f"HEAD:{manifest_file('apple')}", harm)
    with pytest.raises(GitError, match=f"blob {blob} .*remove .*`git fetch --refetch`"):
        Repository.open(committed.path).atlas()
    with pytest.raises(GitError, match=blob):
        committed.history.log()
    (committed.git.common / "objects" / blob[:2] / blob[2:]).unlink(missing_ok=True)
    run_git(committed.path, "fetch", "--refetch", "origin")
    assert set(committed.atlas()) == {"apple", "x"} and check_all(committed).damage == ()


@pytest.mark.parametrize("harm", [in_the_beginning, at_the_end, Path.unlink])
def test_fsck_goes_on_where_a_blob_is_damaged(committed: Repository, add: Add, harm: Harm) -> None:
    first = committed.git.head()
    add(committed, "x", 0.1)
    before = check_all(committed)
    assert not before.damage
    lost, unnamed = committed.atlas()["x"].objects[:2]
    committed.store.remove(lost.oid)
    manifest = harmed(committed, f"HEAD:{manifest_file('x')}", harm)
    pointer = harmed(committed, f"HEAD:{object_file(unnamed.oid)}", harm)
    after = check_all(Repository.open(committed.path))
    problems = {one.subject: one.problem for one in after.damage}
    assert manifest in problems[committed.git.head()[:12]]
    assert pointer in problems.get(object_file(unnamed.oid), problems["git"])
    assert object_file(lost.oid) in problems and after.objects == before.objects - 2
    assert not any(first[:12] in subject for subject in problems)


@pytest.mark.parametrize("name", ["HEAD~1", "HEAD~1^{tree}", "HEAD~1:capabilities"])
@pytest.mark.parametrize("harm", [in_the_beginning, Path.unlink])
def test_fsck_reports_a_damaged_commit_or_folder(
    committed: Repository, add: Add, name: str, harm: Harm
) -> None:
    add(committed, "x", 0.1)
    harmed(committed, name, harm)
    found = check_all(Repository.open(committed.path))
    assert "git" in [one.subject for one in found.damage]


@pytest.mark.parametrize("harm", [in_the_beginning, Path.unlink])
def test_a_damaged_niwf_toml_is_named(committed: Repository, harm: Harm) -> None:
    blob = harmed(committed, "HEAD:niwf.toml", harm)
    with pytest.raises(GitError, match=blob):
        Repository.open(committed.path)


@pytest.mark.parametrize("harm", [in_the_beginning, Path.unlink])
def test_a_damaged_commit_at_head_is_named_and_never_taken_for_no_commit(
    committed: Repository, harm: Harm
) -> None:
    commit = harmed(committed, "HEAD", harm)
    with pytest.raises(GitError, match=commit if harm is not Path.unlink else "HEAD"):
        Repository.open(committed.path)


def test_a_repository_that_git_takes_for_anothers_is_told_in_its_words(
    committed: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(GitError, match=r"dubious ownership.*safe\.directory"):
        Repository.open(committed.path)


def test_a_branch_without_a_field_says_what_to_check_out(committed: Repository) -> None:
    committed.git.plain("checkout", "--quiet", "--orphan", "paper")
    with pytest.raises(NotARepository, match="git checkout BRANCH"):
        Repository.open(committed.path)


def test_a_repository_of_sha256_works(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add: Add
) -> None:
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    repository = Repository.init(tmp_path / "new", model=str(backbone), dim=8)
    crowd(repository)
    first = add(repository, "x")
    repository.rename("x", "y")
    assert len(first) == 64 and set(repository.atlas()) == {"y"}
    assert [commit.changes[0].kind for commit in repository.history.log(limit=2)][1] == "added"
    assert repository.verify().ok and check_all(repository).damage == ()
    repository.operations.undo()
    assert set(Repository.open(repository.path).atlas()) == {"x"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("folder", ["a $HOME", "~", "two\nlines", 'a "quote" \\ \t'])
def test_the_path_of_a_repository_may_hold_any_character(
    backbone: Path, add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Repository.init(Path(folder), model=str(backbone), dim=8)
    repository = Repository.open(folder)
    assert repository.path == tmp_path / folder
    add(repository, "x")
    repository.rename("x", "y")
    repository.rollback("x")
    assert set(Repository.open(folder).atlas()) == {"x", "y"}
    assert repository.verify().ok and check_all(repository).damage == ()
    collect(repository, 0.0, dry_run=False)
    assert check_all(repository).damage == ()
