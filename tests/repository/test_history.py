"""History: merging, rolling back, undoing, cleaning up."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from niwfctl.atlas import Atlas, Capability
from niwfctl.errors import Conflict, GitError, NiwfError, UnknownName, UsageError
from niwfctl.repository import Repository
from niwfctl.repository.diff import sides
from niwfctl.repository.merge import Resolution, united
from niwfctl.repository.regions import load_region
from niwfctl.repository.upkeep import check_all
from niwfctl.training.checkpoint import load, save


def add(repository: Repository, name: str, shift: float = 0.0, message: str | None = None) -> str:
    """Commits a capability like the trained one, its bases shifted."""
    train(repository, name, shift)
    return repository.commit([name], message or f"Add {name}").commit


def train(repository: Repository, name: str, shift: float = 0.0) -> None:
    """Leaves an uncommitted training like the trained one, its bases shifted."""
    run, tensors = load(repository.path.parent / "pattern.safetensors")
    tensors = {k: v + shift if k.startswith("bases.") else v for k, v in tensors.items()}
    run = run.model_copy(update={"name": name, "id": f"{name}{shift}"})
    save(repository.trainings.checkpoint(name), run, tensors)


@pytest.fixture
def repository(trained: Repository, tmp_path: Path) -> Repository:
    """An empty history, and a checkpoint to make capabilities of."""
    path = trained.trainings.checkpoint("apple")
    shutil.move(path, tmp_path / "pattern.safetensors")
    return trained


def evidence(repository: Repository, name: str) -> dict[str, Tensor]:
    """Gates at random coordinates, and ΔW at one."""
    (entry,) = repository.capability(name).regions
    region = load_region(repository, entry)
    z = torch.randn(200, region.cell.dim, generator=torch.Generator().manual_seed(3))
    return {"gates": region.gates(z)} | dict(region.weight_changes(z[0]))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_two_clones_merge_to_equal_atlases_with_every_field_as_on_its_branch(
    repository: Repository, tmp_path: Path
) -> None:
    add(repository, "base")
    other = Repository.open(shutil.copytree(repository.path, tmp_path / "other"))
    add(repository, "left", 0.1)
    add(other, "right", 0.2)
    before = {"left": evidence(repository, "left"), "right": evidence(other, "right")}
    for one, two in ((repository, other), (other, repository)):
        one.git.plain("fetch", "--quiet", str(two.path), "HEAD:refs/heads/theirs")
        shutil.copytree(two.store.root, one.store.root, dirs_exist_ok=True)
    for one in (repository, other):
        assert one.merge("theirs").kind == "merge"
        assert one.verify().ok
        assert not one.git.plain("status", "--porcelain")
        for name, found in before.items():
            assert_same(evidence(one, name), found)
    assert repository.atlas() == other.atlas()


versions = st.dictionaries(
    st.sampled_from("abcdef"),
    st.integers(0, 2).map(lambda n: Capability.model_construct(name=f"version {n}", regions=())),
)


@settings(max_examples=200)
@given(versions, versions, versions)
def test_without_conflicts_the_union_does_not_depend_on_the_side(
    base: dict, ours: dict, theirs: dict
) -> None:
    try:
        one: Atlas | None = united([base], ours, theirs, Resolution())
    except Conflict as conflict:
        both = {n for n in "abcdef" if ours.get(n) != theirs.get(n)}
        assert set(conflict.names) <= both
        one = None
    if one is None:
        with pytest.raises(Conflict):
            united([base], theirs, ours, Resolution())
    else:
        assert united([base], theirs, ours, Resolution()) == one
        assert all(one.get(n) == theirs.get(n) for n in "abcdef" if ours.get(n) == base.get(n))


@pytest.fixture
def conflicting(repository: Repository) -> Repository:
    """`main` and `side` both have a capability `x`, and not the same."""
    start = add(repository, "first")
    repository.git.plain("checkout", "--quiet", "-b", "side", start)
    add(repository, "x", 0.2)
    repository.git.plain("checkout", "--quiet", "-b", "main", start)
    add(repository, "x", 0.1)
    return repository


def test_a_capability_changed_on_both_sides_is_refused_by_name(conflicting: Repository) -> None:
    head = conflicting.git.head()
    with pytest.raises(Conflict, match=r"'x'.*--ours"):
        conflicting.merge("side")
    assert conflicting.git.head() == head
    assert not conflicting.git.plain("status", "--porcelain")


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_conflict_is_settled_by_taking_a_side(conflicting: Repository, side: str) -> None:
    taken = conflicting.atlas("main" if side == "ours" else "side")["x"]
    conflicting.merge("side", Resolution(side=side))
    assert conflicting.atlas()["x"] == taken
    assert conflicting.verify().ok


@pytest.mark.parametrize("name", ["x", None], ids=["named", "the only one"])
def test_a_conflict_is_settled_by_keeping_both(conflicting: Repository, name: str | None) -> None:
    ours, theirs = conflicting.atlas()["x"], conflicting.atlas("side")["x"]
    conflicting.merge("side", Resolution(rename=((name, "y"),)))
    assert conflicting.atlas()["x"].unrouted == ours.unrouted
    assert conflicting.atlas()["y"].unrouted.regions == theirs.unrouted.regions
    assert conflicting.verify().ok


@pytest.mark.parametrize(
    ("renames", "words"),
    [
        ([("x", "first")], "'first' is already a capability"),
        ([("x", "y"), ("x", "y")], "'y' is taken"),
        ([("x", "../y")], "cannot name"),
        ([("first", "y")], "'first' was not changed on both sides"),
        ([("nowhere", "y")], "'nowhere' was not changed on both sides"),
    ],
)
def test_a_rename_that_makes_no_sense_is_refused(
    conflicting: Repository, renames: list, words: str
) -> None:
    head = conflicting.git.head()
    with pytest.raises(UsageError, match=words):
        conflicting.merge("side", Resolution("ours", tuple(renames)))
    assert conflicting.git.head() == head and not conflicting.changes()


def test_a_rename_to_the_name_of_an_uncommitted_training_is_refused(
    conflicting: Repository,
) -> None:
    train(conflicting, "y")
    with pytest.raises(UsageError, match="'y' has an uncommitted training"):
        conflicting.merge("side", Resolution(rename=(("x", "y"),)))


def test_every_commit_that_a_graph_draws_is_told_however_dates_interleave(
    conflicting: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hour in range(4):
        conflicting.git.checkout(("main", "side")[hour % 2])
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2040-01-01T0{hour}:00:00Z")
        conflicting.git.plain("commit", "--allow-empty", "-m", f"Hour {hour}")
    conflicting.git.checkout("main")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2040-01-01T09:00:00Z")
    conflicting.merge("side", Resolution(side="ours"))
    for limit in range(1, 8):
        drawn = conflicting.history.graph(limit=limit)
        assert all(commit is not None for line, commit in drawn if "*" in line)
        assert sum(commit is not None for _, commit in drawn) == limit


def test_diff_reads_ranges_as_git_does(conflicting: Repository) -> None:
    main, side = conflicting.atlas("main"), conflicting.atlas("side")
    assert sides(conflicting, "main..side", None) == (main, side)
    assert sides(conflicting, "side..", None) == (side, main)
    assert sides(conflicting, "..side", None) == (main, side)
    assert sides(conflicting, "main...side", None) == (conflicting.atlas("main~1"), side)
    assert sides(conflicting, "main", "side") == (main, side)
    with pytest.raises(UnknownName, match="'nowhere'"):
        sides(conflicting, "nowhere...side", None)


def test_diff_refuses_three_dots_between_unrelated_histories(conflicting: Repository) -> None:
    tree = conflicting.git.plain("rev-parse", "HEAD^{tree}").strip()
    orphan = conflicting.git.plain("commit-tree", "-m", "alone", tree).strip()
    with pytest.raises(UsageError, match="no commit in common"):
        sides(conflicting, f"main...{orphan}", None)


def test_a_new_name_alone_is_refused_where_several_could_get_it(conflicting: Repository) -> None:
    for branch, shift in (("side", 0.3), ("main", 0.4)):
        conflicting.git.checkout(branch)
        add(conflicting, "z", shift)
    with pytest.raises(UsageError, match=r"changed x, z: say which.*`--rename NAME=y`"):
        conflicting.merge("side", Resolution(rename=((None, "y"),)))
    with pytest.raises(Conflict, match=r"'z'.*niwfctl merge side --rename z=NEW"):
        conflicting.merge("side", Resolution(rename=(("x", "y"),)))


def test_files_of_others_are_merged_and_conflicts_in_them_refused(
    conflicting: Repository,
) -> None:
    conflicting.git.checkout("side")
    (conflicting.path / "README").write_text("theirs\n")
    conflicting.git.plain("add", "README")
    conflicting.git.plain("commit", "-m", "Readme")
    conflicting.git.checkout("main")
    conflicting.merge("side", Resolution(side="ours"))
    assert (conflicting.path / "README").read_text() == "theirs\n"
    for branch, text in (("side", "one\n"), ("main", "two\n")):
        conflicting.git.checkout(branch)
        (conflicting.path / "README").write_text(text)
        conflicting.git.plain("commit", "-am", "Change")
    with pytest.raises(UsageError, match="README"):
        conflicting.merge("side", Resolution(side="ours"))


def test_local_changes_are_not_lost_by_a_merge(conflicting: Repository) -> None:
    conflicting.git.checkout("side")
    (conflicting.path / "README").write_text("theirs\n")
    conflicting.git.plain("add", "README")
    conflicting.git.plain("commit", "-m", "Readme")
    conflicting.git.checkout("main")
    (conflicting.path / "README").write_text("mine, not committed\n")
    with pytest.raises(UsageError, match="local changes"):
        conflicting.merge("side", Resolution(side="ours"))
    assert (conflicting.path / "README").read_text() == "mine, not committed\n"


def test_another_backbone_is_refused(repository: Repository, tmp_path: Path) -> None:
    add(repository, "x")
    repository.git.plain("checkout", "--quiet", "-b", "other")
    path = repository.path / "niwf.toml"
    path.write_text(path.read_text().replace('identity = "sha256:', 'identity = "sha256:f'))
    repository.git.plain("commit", "-am", "Another backbone")
    repository.git.plain("checkout", "--quiet", "-b", "main", "HEAD~1")
    add(repository, "y", 0.1)
    for use in (
        lambda: repository.merge("other"),
        lambda: repository.checkout("x@other"),
        lambda: repository.compose(["y", "x@other"], "z"),
        lambda: repository.rollback("y", "other"),
        lambda: repository.rollback(to="other"),
        lambda: repository.export("x@other", tmp_path / "adapter", "peft"),
    ):
        with pytest.raises(UsageError, match="another backbone"):
            use()


def test_rollback_brings_back_a_capability_bit_for_bit(repository: Repository) -> None:
    first = add(repository, "x", 0.1)
    before = evidence(repository, "x")
    repository.remove("x")
    assert "x" not in repository.atlas()
    would_be = repository.rollback("x", dry_run=True)
    assert would_be.commit is None and "x" in would_be.after and "x" not in repository.atlas()
    done = repository.rollback("x")
    assert done.source == would_be.source == first
    assert done.commit == repository.git.resolve("HEAD") and "x" not in done.before
    assert_same(evidence(repository, "x"), before)
    assert repository.verify().ok
    repository.rename("x", "y")
    repository.rollback(to=first)
    assert sorted(repository.atlas()) == ["x"]
    with pytest.raises(UnknownName, match="no capability 'y'"):
        repository.rollback("y", to=first)
    messages = [commit.message for commit in repository.history.log()]
    assert len(messages) == 6 and messages[-2] == "Add x"


def test_objects_that_others_use_stay_when_one_is_removed(repository: Repository) -> None:
    add(repository, "x")
    add(repository, "twin")
    repository.remove("x")
    assert repository.verify().ok
    assert check_all(repository).damage == ()


def test_undo_takes_back_each_operation_and_undoing_the_undo_repeats_it(
    repository: Repository,
) -> None:
    add(repository, "x")
    assert repository.operations.entries()[-1].removed == ["x"]
    repository.operations.undo()
    assert not repository.atlas() and [run.name for run in repository.uncommitted()] == ["x"]
    repository.operations.undo()
    assert sorted(repository.atlas()) == ["x"] and not repository.uncommitted()
    repository.remove("x")
    repository.operations.undo()
    assert sorted(repository.atlas()) == ["x"]
    assert not repository.git.plain("status", "--porcelain")
    assert repository.verify().ok


def test_undo_makes_active_again_what_the_operation_made_inactive(repository: Repository) -> None:
    add(repository, "apple")
    repository.checkout("apple")
    for change, then in (
        (lambda: repository.rename("apple", "fruit"), "fruit"),
        (lambda: repository.remove("apple"), None),
    ):
        change()
        for active in ("apple", then, "apple"):
            repository.operations.undo()
            assert repository.active == active
    repository.rename("apple", "fruit")
    repository.checkout(None)
    repository.operations.undo()
    assert repository.active is None


def test_undo_reads_a_log_that_does_not_say_what_was_active(repository: Repository) -> None:
    add(repository, "apple")
    repository.checkout("apple")
    repository.rename("apple", "fruit")
    log = repository.private / "operations" / "log.json"
    entries = json.loads(log.read_bytes())
    for entry in entries:
        del entry["active_before"], entry["active_after"]
    log.write_text(json.dumps(entries))
    repository.operations.undo()
    assert set(repository.atlas()) == {"apple"} and repository.active == "fruit"


def test_where_nothing_was_done_nothing_is_undone(fresh: Repository) -> None:
    with pytest.raises(NiwfError, match="nothing to undo"):
        fresh.operations.undo()


def test_undo_is_refused_when_the_branch_moved_on(repository: Repository) -> None:
    add(repository, "x")
    repository.git.plain("commit", "--allow-empty", "-m", "Someone else")
    with pytest.raises(UsageError, match="moved on"):
        repository.operations.undo()


def test_a_hook_that_says_no_changes_nothing(repository: Repository) -> None:
    hook = repository.git.folder / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    head = repository.git.head()
    with pytest.raises(GitError, match="not today"):
        add(repository, "x")
    assert repository.git.head() == head
    assert [run.name for run in repository.uncommitted()] == ["x"]


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
def test_commits_are_signed_when_git_is_configured_so(
    repository: Repository, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    allowed = tmp_path / "allowed"
    allowed.write_text(f"ada@example.org {key.with_suffix('.pub').read_text()}")
    for name, value in {
        "gpg.format": "ssh",
        "user.signingKey": str(key),
        "commit.gpgSign": "true",
        "gpg.ssh.allowedSignersFile": str(allowed),
    }.items():
        repository.git.plain("config", name, value)
    repository.git.plain("verify-commit", add(repository, "x"))
