"""Merging what both sides changed: extensions add up, and changes follow renames."""

import itertools
from collections.abc import Callable

import pytest
from histories import on, place, settled

from niwfctl.errors import Conflict
from niwfctl.field.routing import owners
from niwfctl.repository import Repository
from niwfctl.repository.diff import revisions
from niwfctl.repository.merge import Resolution
from niwfctl.repository.record import record
from niwfctl.repository.routing import base_cell, routed_regions


@pytest.fixture
def extended(trained: Repository) -> Repository:
    """`many` has a region on `main`; `b0` to `b2` extend it, the first twice."""
    on(trained, "main", "HEAD")
    place(trained, "many", 10.0)
    for branch, centres in (("b0", (-10.0, 20.0)), ("b1", (30.0,)), ("b2", (-30.0,))):
        on(trained, branch, "main")
        for centre in centres:
            place(trained, "many", centre, mode="extend")
    return trained


def regions(repository: Repository, revision: str = "HEAD") -> list[str]:
    return [entry.region.oid for entry in repository.capability(f"many@{revision}").regions]


def test_branches_that_only_extend_a_capability_merge_to_one_tree_in_any_order(
    extended: Repository,
) -> None:
    trees = set()
    for first, *others in itertools.permutations(("b0", "b1", "b2")):
        on(extended, "trunk", first)
        for other in others:
            assert extended.merge(other).changed == ("many",)
        trees.add(extended.git.plain("rev-parse", "HEAD^{tree}"))
        (change,) = revisions(extended.atlas(first), extended.atlas())
        assert change.kind == "extended"
    assert len(trees) == 1
    branches = [regions(extended, f"b{number}") for number in range(3)]
    merged = regions(extended)
    assert sorted(merged) == sorted({oid for one in branches for oid in one})
    assert all([oid for oid in merged if oid in one] == one for one in branches)
    assert extended.verify().ok
    settled(extended)


def test_an_extension_that_two_branches_merged_before_does_not_keep_them_apart(
    extended: Repository,
) -> None:
    for branch in ("b0", "b1"):
        on(extended, f"with-{branch}", branch)
        extended.merge("b2")
    found = []
    for ours, theirs in itertools.permutations(("with-b0", "with-b1")):
        on(extended, "trunk", ours)
        extended.merge(theirs)
        found.append(extended.atlas())
    assert found[0] == found[1] and len(regions(extended)) == 5


def test_what_both_sides_extended_is_routed_to_and_extended_like_any_other(
    extended: Repository,
) -> None:
    on(extended, "trunk", "b1")
    extended.merge("b0")
    merged = regions(extended)
    place(extended, "many", -20.0, mode="extend")
    assert regions(extended)[:-1] == merged and len(merged) == 4
    assert extended.verify(deep=True).ok
    claims = [routed.claim for routed in routed_regions(extended, extended.atlas())]
    for index, claim in enumerate(claims):
        assert set(owners(claim.anchors, base_cell(extended), claims).tolist()) == {index}


def test_a_side_or_a_second_name_may_be_asked_for_where_both_sides_extended(
    extended: Repository,
) -> None:
    alone = {branch: regions(extended, branch) for branch in ("b1", "b2")}
    for side, branch in (("ours", "b1"), ("theirs", "b2")):
        on(extended, "trunk", "b1")
        extended.merge("b2", Resolution(side=side))
        assert regions(extended) == alone[branch]
    on(extended, "trunk", "b1")
    extended.merge("b2", Resolution(rename=(("many", "more"),)))
    assert regions(extended) == alone["b1"]
    assert len(extended.capability("more").regions) == 2 and extended.verify().ok


@pytest.mark.parametrize("change", ["revised", "removed", "under other terms"])
def test_an_extension_still_conflicts_with_anything_but_an_extension(
    extended: Repository, change: str
) -> None:
    if change == "revised":
        on(extended, "side", "main")
        place(extended, "many", 11.0, mode="revise")
    elif change == "removed":
        on(extended, "side", "main")
        extended.remove("many")
    else:
        on(extended, "side", "b1")
        capability = extended.capability("many")
        entry = capability.regions[-1]
        terms = entry.terms.model_copy(update={"max_takeover": 0.5})
        other = (capability.regions[0], entry.model_copy(update={"terms": terms}))
        on(extended, "side", "main")
        new = {"many": capability.model_copy(update={"regions": other})}
        record(extended, lambda atlas: atlas | new, "Other terms")
    for ours, theirs in (("side", "b1"), ("b1", "side")):
        on(extended, "trunk", ours)
        with pytest.raises(Conflict, match="many"):
            extended.merge(theirs)


@pytest.mark.parametrize("change", ["revised", "extended", "both extended"])
def test_what_one_side_renamed_and_the_other_changed_is_changed_under_its_new_name(
    extended: Repository, change: str
) -> None:
    on(extended, "renamer", "main")
    extended.rename("many", "more")
    if change == "both extended":
        place(extended, "more", 40.0, mode="extend")
    on(extended, "changer", "main" if change == "revised" else "b1")
    if change == "revised":
        place(extended, "many", 11.0, mode="revise")
    expected = set(regions(extended, "changer"))
    expected |= {entry.region.oid for entry in extended.capability("more@renamer").regions} - set(
        regions(extended, "main")
    )
    trees = set()
    for ours, theirs in (("renamer", "changer"), ("changer", "renamer")):
        on(extended, "trunk", ours)
        extended.merge(theirs)
        assert set(extended.atlas()) == {"more"}
        assert {one.region.oid for one in extended.capability("more").regions} == expected
        trees.add(extended.git.plain("rev-parse", "HEAD^{tree}"))
        settled(extended)
    assert len(trees) == 1 and extended.verify().ok


def test_a_change_follows_no_rename_whose_name_is_taken_or_that_may_be_two(
    extended: Repository,
) -> None:
    on(extended, "renamer", "main")
    extended.rename("many", "more")
    on(extended, "taken", "b1")
    place(extended, "more", 50.0)
    on(extended, "two", "renamer")
    copy = extended.capability("more").model_copy(update={"name": "most"})
    record(extended, lambda atlas: atlas | {"most": copy}, "A copy")
    for ours, theirs in (("renamer", "taken"), ("taken", "renamer"), ("two", "b1"), ("b1", "two")):
        on(extended, "trunk", ours)
        with pytest.raises(Conflict):
            extended.merge(theirs)


@pytest.fixture
def sharing(fresh: Repository, add: Callable[..., str]) -> Repository:
    """On `main`, with `old`; `side` also has `twin`, of the same bases."""
    on(fresh, "main", add(fresh, "old"))
    on(fresh, "side", "main")
    add(fresh, "twin")
    on(fresh, "main", "main")
    return fresh


def test_merging_head_writes_the_pointers_again_that_plain_git_removed(sharing: Repository) -> None:
    sharing.remove("old")
    sharing.git.plain("merge", "--quiet", "side")
    (failed,) = (one for one in sharing.verify(["twin"]).checks if not one.ok)
    assert "missing from the commit; `niwfctl merge HEAD`" in failed.detail
    assert sharing.merge("HEAD").kind == "settled"
    assert sharing.merge("HEAD").kind == "up to date"
    assert list(sharing.atlas()) == ["twin"] and sharing.verify().ok
    settled(sharing)


def test_a_rollback_brings_back_the_pointers_that_plain_git_reverted(sharing: Repository) -> None:
    sharing.git.plain("merge", "--quiet", "side")
    good = sharing.git.resolve("HEAD")
    sharing.git.plain("revert", "--no-edit", "HEAD~1")
    assert list(sharing.atlas()) == ["twin"] and not sharing.verify().ok
    sharing.rollback(to=good)
    assert list(sharing.atlas()) == ["old", "twin"] and sharing.verify().ok
    assert sharing.git.plain("diff", "--stat", good) == ""
