"""Merging where histories are odd: any adds, removals and renames, by git's hand or by ours."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from histories import on, revise, settled
from hypothesis import given, settings
from hypothesis import strategies as st

from niwfctl.atlas import Atlas, Capability
from niwfctl.errors import Conflict, FormatError, GitError, UsageError
from niwfctl.repository import Repository
from niwfctl.repository.merge import Resolution
from niwfctl.repository.record import record
from niwfctl.repository.upkeep import check_all

Add = Callable[..., str]
Evidence = Callable[[Repository, str], dict[str, bytes]]


def write(repository: Repository, name: str, text: str) -> None:
    (repository.path / name).write_text(text)
    repository.git.plain("add", name)
    repository.git.plain("commit", "--quiet", "-m", f"Write {name}")


@pytest.fixture
def diverged(fresh: Repository, add: Add) -> Repository:
    """On `main`, with `left`; `side` has `right`; both have `base`."""
    start = add(fresh, "base")
    on(fresh, "side", start)
    add(fresh, "right", 0.2)
    on(fresh, "main", start)
    add(fresh, "left", 0.1)
    return fresh


@pytest.fixture
def conflicting(diverged: Repository, add: Add) -> Repository:
    """`main` and `side` both have a capability `x`, and not the same."""
    add(diverged, "x", 0.3)
    diverged.git.checkout("side")
    add(diverged, "x", 0.4)
    diverged.git.checkout("main")
    return diverged


@dataclass(frozen=True)
class Pool:
    """A repository to merge in, and capabilities to merge; some share their bases."""

    repository: Repository
    start: str
    capabilities: tuple[Capability, ...]

    def commit(self, branch: str, start: str, atlas: Atlas) -> None:
        on(self.repository, branch, start)
        if atlas != self.repository.atlas():
            record(self.repository, lambda _: atlas, branch)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, _fresh: Path, add: Add) -> Iterator[Pool]:
    repository = Repository.open(shutil.copytree(_fresh, tmp_path_factory.mktemp("pool") / "r"))
    start = repository.git.head()
    for number in range(6):
        add(repository, f"c{number}", (number // 2) / 10)
    yield Pool(repository, start, tuple(repository.atlas().values()))


fates = st.sampled_from(["kept", "removed", "renamed"])
whose = st.sampled_from(["ours", "theirs", "both"])


@settings(max_examples=8, deadline=None)
@given(
    changed=st.lists(st.tuples(fates, whose), min_size=4, max_size=4),
    added=st.tuples(whose, whose),
)
def test_any_adds_removals_and_renames_merge_to_one_tree_whichever_side_is_ours(
    pool: Pool, changed: list[tuple[str, str]], added: tuple[str, str]
) -> None:
    repository, four = pool.repository, {c.name: c for c in pool.capabilities[:4]}
    sides: dict[str, Atlas] = {"ours": dict(four), "theirs": dict(four)}
    for capability, (fate, side) in zip(pool.capabilities, changed, strict=False):
        for one in sides if side == "both" else [side]:
            if fate != "kept":
                del sides[one][capability.name]
            if fate == "renamed":
                new = f"{capability.name}-renamed"
                sides[one][new] = capability.model_copy(update={"name": new})
    for capability, side in zip(pool.capabilities[4:], added, strict=True):
        for one in sides if side == "both" else [side]:
            sides[one][capability.name] = capability
    pool.commit("base", pool.start, four)
    for side, atlas in sides.items():
        pool.commit(side, "base", atlas)
    merged = []
    for one, other in (("ours", "theirs"), ("theirs", "ours")):
        on(repository, "merging", one)
        repository.merge(other)
        settled(repository)
        merged.append((repository.atlas(), repository.git.plain("rev-parse", "HEAD^{tree}")))
    assert merged[0] == merged[1]
    assert set(merged[0][0]) == (
        (sides["ours"].keys() & sides["theirs"].keys())
        | (sides["ours"].keys() ^ sides["theirs"].keys()) - four.keys()
    )


@dataclass(frozen=True)
class Ten:
    """A repository with ten branches that each add a capability; and what they merge to."""

    repository: Repository
    fields: tuple[dict[str, bytes], ...]
    tree: str

    def merge(self, order: Sequence[int]) -> str:
        """Merges the branches into the first of them; the tree that comes out."""
        on(self.repository, "trunk", f"b{order[0]}")
        for number in order[1:]:
            self.repository.merge(f"b{number}")
        return self.repository.git.plain("rev-parse", "HEAD^{tree}")


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory, _fresh: Path, add: Add, evidence) -> Ten:
    repository = Repository.open(shutil.copytree(_fresh, tmp_path_factory.mktemp("ten") / "r"))
    start = add(repository, "base")
    fields = []
    for number in range(10):
        on(repository, f"b{number}", start)
        add(repository, f"c{number}", (number // 2) / 10)  # pairs share their bases
        fields.append(evidence(repository, f"c{number}"))
    tree = Ten(repository, (), "").merge(range(10))
    return Ten(repository, tuple(fields), tree)


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(10)))
def test_ten_branches_merge_to_one_tree_in_any_order_with_every_field_as_on_its_branch(
    ten: Ten, evidence: Evidence, order: list[int]
) -> None:
    assert ten.merge(order) == ten.tree
    for number, field in enumerate(ten.fields):
        assert evidence(ten.repository, f"c{number}") == field
    settled(ten.repository)


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(10)))
def test_an_octopus_of_plain_git_brings_every_field_together_in_any_order(
    ten: Ten, evidence: Evidence, order: list[int]
) -> None:
    on(ten.repository, "octopus", f"b{order[0]}")
    ten.repository.git.plain("merge", "--quiet", *(f"b{number}" for number in order[1:]))
    for number, field in enumerate(ten.fields):
        assert evidence(ten.repository, f"c{number}") == field
    settled(ten.repository)


def test_a_branch_that_is_ahead_is_taken_as_it_is_and_one_that_is_behind_changes_nothing(
    diverged: Repository,
) -> None:
    diverged.git.checkout("side")
    on(diverged, "behind", "side~1")
    assert diverged.merge("side").kind == "fast-forward"
    assert diverged.git.head() == diverged.git.resolve("side")
    settled(diverged)
    assert diverged.merge("side~1").kind == "up to date"
    assert diverged.git.head() == diverged.git.resolve("side")


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_what_a_settled_conflict_leaves_out_leaves_no_pointer_behind(
    conflicting: Repository, side: str
) -> None:
    conflicting.merge("side", Resolution(side=side))
    settled(conflicting)


def test_a_conflict_is_settled_alike_when_a_removal_meets_a_change(
    conflicting: Repository,
) -> None:
    base = conflicting.git.resolve("side")
    on(conflicting, "removing", base)
    conflicting.remove("x")
    on(conflicting, "changing", base)
    other = conflicting.atlas("main")["x"]
    record(conflicting, lambda atlas: atlas | {"x": other}, "Another x")
    conflicting.merge("removing", Resolution(side="theirs"))
    assert "x" not in conflicting.atlas()
    settled(conflicting)


def test_another_coordinate_map_is_refused(diverged: Repository) -> None:
    diverged.git.checkout("side")
    config = (diverged.path / "niwf.toml").read_text()
    oid = diverged.config.field.coordinates
    write(diverged, "niwf.toml", config.replace(oid, oid[::-1]))
    diverged.git.checkout("main")
    with pytest.raises(UsageError, match="another coordinate map"):
        Repository.open(diverged.path).merge("side")


def test_a_branch_of_something_else_is_refused(diverged: Repository) -> None:
    diverged.git.plain("checkout", "--quiet", "--orphan", "else")
    diverged.git.plain("rm", "-rfq", ".")
    write(diverged, "README", "something else\n")
    diverged.git.checkout("main")
    with pytest.raises(UsageError, match=r"no niwf\.toml"):
        diverged.merge("else")


def test_histories_that_began_apart_merge_if_their_field_is_one(
    diverged: Repository, evidence: Evidence
) -> None:
    before = evidence(diverged, "left")
    diverged.git.checkout("side")
    diverged.git.plain("checkout", "--quiet", "--orphan", "apart")
    diverged.git.plain("commit", "--quiet", "-m", "Begin apart")
    diverged.git.checkout("main")
    assert diverged.git.merge_bases("main", "apart") == []
    assert diverged.merge("apart").added == ("right",)
    assert sorted(diverged.atlas()) == ["base", "left", "right"]
    assert evidence(diverged, "left") == before
    assert diverged.verify().ok
    settled(diverged)


def test_a_plain_git_merge_gives_what_ours_gives(diverged: Repository, evidence: Evidence) -> None:
    before = evidence(diverged, "left")
    on(diverged, "by-ours", "main")
    diverged.merge("side")
    on(diverged, "by-git", "main")
    diverged.git.plain("merge", "--quiet", "side")
    undecided = [check.check for check in diverged.verify().checks if not check.ok]
    assert undecided == ["routing"]  # the two lie on the same ground, and neither knew the other
    assert diverged.merge("HEAD").kind == "settled"
    assert diverged.merge("HEAD").kind == "up to date"
    trees = diverged.git.plain("rev-parse", "by-ours^{tree}", "by-git^{tree}").split()
    assert trees[0] == trees[1]
    assert evidence(diverged, "left") == before
    assert diverged.verify().ok and check_all(diverged).damage == ()


def test_only_merging_head_by_its_own_name_settles_the_routing(diverged: Repository) -> None:
    diverged.git.plain("merge", "--quiet", "side")
    diverged.git.plain("branch", "there")
    head = diverged.git.head()
    for same in ("there", head):
        assert diverged.merge(same).kind == "up to date"
        assert diverged.git.head() == head
    assert diverged.merge("main").kind == "settled"


def test_verify_tells_what_a_plain_git_merge_left_to_decide(diverged: Repository, add: Add) -> None:
    on(diverged, "twin", "side")
    add(diverged, "twin", 0.2)  # shares its bases with `right`
    on(diverged, "without", "side")
    diverged.remove("right")
    diverged.git.plain("merge", "--quiet", "twin")
    report = diverged.verify(["twin"])
    (failed,) = [check for check in report.checks if not check.ok]
    assert failed.subject == "twin" and "is missing from the commit" in failed.detail
    on(diverged, "without", "without~1")
    diverged.merge("twin")
    assert sorted(diverged.atlas()) == ["base", "twin"]
    assert diverged.verify().ok
    settled(diverged)


def test_a_conflict_that_git_was_left_with_and_committed_is_named(conflicting: Repository) -> None:
    attributes = conflicting.git.common / "info" / "attributes"
    attributes.write_text("capabilities/*.json merge\n")  # as versions up to 0.7 left it to git
    with pytest.raises(UsageError):
        conflicting.git.plain("merge", "side")
    conflicting.git.plain("commit", "--quiet", "-am", "Whatever")
    with pytest.raises(FormatError, match=r"capabilities/x\.json"):
        conflicting.atlas()


@pytest.mark.parametrize("staged", [False, True], ids=["not staged", "staged"])
def test_local_changes_are_kept_or_the_merge_is_refused(diverged: Repository, staged: bool) -> None:
    diverged.git.checkout("side")
    write(diverged, "shared.txt", "theirs\n")
    diverged.git.checkout("main")
    head = diverged.git.head()
    local = {"own.txt": "my own\n", "shared.txt": "my own\n", "niwf.toml": "# my own\n"}
    for name, text in local.items():
        (diverged.path / name).write_text(text)
    if staged:
        diverged.git.plain("add", *local)
    with pytest.raises(UsageError, match=r"local changes would be lost.*shared\.txt"):
        diverged.merge("side")
    assert diverged.git.head() == head
    assert {name: (diverged.path / name).read_text() for name in local} == local
    if staged:
        diverged.git.plain("rm", "--quiet", "--cached", "shared.txt")
    (diverged.path / "shared.txt").unlink()
    assert diverged.merge("side").kind == "merge"
    del local["shared.txt"]
    assert {name: (diverged.path / name).read_text() for name in local} == local
    assert (diverged.path / "shared.txt").read_text() == "theirs\n"


def test_what_branches_merged_crosswise_decided_otherwise_is_a_conflict(
    conflicting: Repository,
) -> None:
    sides = {branch: conflicting.git.resolve(branch) for branch in ("main", "side")}
    kept = {branch: conflicting.capability(f"x@{commit}") for branch, commit in sides.items()}
    conflicting.merge(sides["side"], Resolution(side="ours"))
    conflicting.git.checkout("side")
    conflicting.merge(sides["main"], Resolution(side="ours"))
    assert len(conflicting.git.merge_bases("main", "side")) == 2
    for branch, other in (("side", "main"), ("main", "side")):
        conflicting.git.checkout(branch)
        with pytest.raises(Conflict, match="x"):
            conflicting.merge(other)
        assert conflicting.capability("x").unrouted == kept[branch].unrouted


@pytest.mark.parametrize("remover", ["main", "side"])
def test_a_capability_that_one_side_removed_offers_no_second_name(
    diverged: Repository, add: Add, remover: str
) -> None:
    for branch in ("side", "main"):
        diverged.git.checkout(branch)
        diverged.remove("base") if branch == remover else revise(diverged, "base", 1)
    words = "we removed 'base', which side changed"
    if remover == "side":
        words = "side removed 'base', which we changed"
    with pytest.raises(Conflict, match=words) as refusal:
        diverged.merge("side")
    assert "--ours` or `--theirs" in str(refusal.value) and "--rename" not in str(refusal.value)
    with pytest.raises(UsageError, match="'base' was removed on one side"):
        diverged.merge("side", Resolution(rename=(("base", "y"),)))
    for branch, shift in (("side", 0.5), ("main", 0.6)):
        diverged.git.checkout(branch)
        add(diverged, "x", shift)
    with pytest.raises(Conflict, match=rf"changed 'x', and {words}.*--rename x=NEW"):
        diverged.merge("side")
    diverged.merge("side", Resolution(side="ours" if remover == "main" else "theirs"))
    assert "base" not in diverged.atlas()


def test_of_several_conflicts_theirs_can_be_taken_one_by_one_as_the_message_says(
    conflicting: Repository, add: Add
) -> None:
    for branch, shift in (("side", 0.5), ("main", 0.6)):
        conflicting.git.checkout(branch)
        add(conflicting, "y", shift)
    theirs, mine = (conflicting.capability(one).unrouted for one in ("x@side", "y"))
    ways = r"merge with `--ours`, then `niwfctl rollback NAME --to side` where theirs is right"
    with pytest.raises(Conflict, match=ways) as refusal:
        conflicting.merge("side")
    assert refusal.value.names == ["x", "y"] and "rm NAME" not in str(refusal.value)
    conflicting.merge("side", Resolution(side="ours"))
    conflicting.rollback("x", "side")
    assert conflicting.capability("x").unrouted == theirs
    assert conflicting.capability("y").unrouted == mine
    assert conflicting.merge("side").kind == "up to date"


def test_a_merge_whose_branch_moved_meanwhile_leaves_nothing_behind(diverged: Repository) -> None:
    before = diverged.git.head()
    hook = diverged.git.folder / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\n[ $1 != prepared ]\n")
    hook.chmod(0o755)
    with pytest.raises(GitError, match="try again"):
        diverged.merge("side")
    assert diverged.git.head() == before
    assert diverged.git.plain("status", "--porcelain") == ""
    hook.unlink()
    assert diverged.merge("side").kind == "merge"


def test_names_that_differ_only_in_case_are_not_merged(diverged: Repository) -> None:
    diverged.rename("left", "Pear")
    diverged.git.checkout("side")
    diverged.rename("right", "pear")
    with pytest.raises(UsageError, match="'Pear' and 'pear' differ only in case"):
        diverged.merge("main")
    assert set(diverged.atlas()) == {"base", "pear"}


def test_a_fast_forward_asks_for_no_author_and_a_merge_does(
    diverged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    diverged.git.plain("config", "user.useConfigOnly", "true")
    with pytest.raises(GitError, match="who you are"):
        diverged.merge("side")
    on(diverged, "late", "main~1")
    assert diverged.merge("main").kind == "fast-forward"
    assert diverged.git.head() == diverged.git.resolve("main")
