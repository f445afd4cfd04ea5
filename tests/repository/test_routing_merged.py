"""The routing lock where branches meet: merges, by our hand or git's, and rollbacks."""

import itertools
import json
from collections.abc import Callable

import pytest
import torch
from histories import limit
from typer.testing import Result

from niwfctl.field.routing import won
from niwfctl.repository import Repository
from niwfctl.repository.routing import routed_regions

Crowd = Callable[..., Repository]


def test_merged_in_any_order_routing_is_settled_alike(crowd: Crowd) -> None:
    repository = crowd("first", 4.0)
    start = repository.git.head()
    for number, name in enumerate("abc"):
        repository.git.plain("checkout", "--quiet", "-b", name, start)
        crowd(name, 5.1 + number / 20, max_takeover=0)
    found = []
    for order in itertools.permutations("abc"):
        repository.git.plain("checkout", "--quiet", "-B", "trunk", order[0])
        for name in order[1:]:
            repository.merge(name)
        found.append(repository.atlas())
        assert repository.verify().ok
    assert all(atlas == found[0] for atlas in found)
    alone = {name: repository.atlas(name)[name].regions[0] for name in "abc"}
    merged = {name: found[0][name].regions[0] for name in "abc"}
    assert all(merged[name].region == alone[name].region for name in "abc")
    assert any(merged[name].routing.bias > alone[name].routing.bias for name in "abc")
    assert any(count.disputed for one in merged.values() for count in one.routing.takeover)


def test_verify_tells_when_plain_git_merge_broke_the_lock_and_merging_head_settles_it(
    crowd: Crowd, niwfctl: Callable[..., Result]
) -> None:
    repository = crowd("first", 50.0)
    start = repository.git.head()
    for name in "ab":
        repository.git.plain("checkout", "--quiet", "-b", name, start)
        crowd(name, 5.0)
    repository.git.plain("merge", "--quiet", "-m", "By git", "a")
    report = repository.verify()
    (failed,) = [check for check in report.checks if not check.ok]
    assert failed.check == "routing" and "niwfctl merge HEAD" in failed.detail
    done = niwfctl("-C", repository.path, "merge", "HEAD")
    assert done.exit_code == 0 and "bias 0 →" in done.stdout
    assert Repository.open(repository.path).verify().ok


def test_the_author_of_a_branch_mends_what_plain_git_would_merge_as_verify_says(
    crowd: Crowd,
) -> None:
    repository = crowd("first", 50.0)
    git, start = repository.git.plain, repository.git.head()
    for name in ("main", "topic"):
        git("checkout", "--quiet", "-B", name, start)
        crowd(f"of-{name}", 5.0)
    git("update-ref", "refs/remotes/origin/main", "main")

    def failures() -> list[str]:
        """What verify says of the merge that a host would make."""
        git("checkout", "--quiet", "-B", "host", "origin/main")
        git("merge", "--quiet", "-m", "By git", "topic")
        return [check.detail for check in repository.verify().checks if not check.ok]

    (detail,) = failures()
    git("checkout", "--quiet", "topic")
    assert repository.verify().ok and repository.merge("HEAD").kind == "up to date"
    command = "niwfctl merge origin/main"
    assert f"`{command}` on its branch" in detail
    repository.merge(command.split()[-1])
    assert failures() == []


def test_pull_requests_brought_up_to_date_merge_by_plain_git_where_regions_lie_apart(
    crowd: Crowd,
) -> None:
    repository = crowd("first", 20.0)
    git, start = repository.git.plain, repository.git.head()
    for name, place in (("a", 40.0), ("b", 60.0)):
        git("checkout", "--quiet", "-B", name, start)
        crowd(name, place)
    git("checkout", "--quiet", "-B", "trunk", start)
    for name, place in (("second", 80.0), ("third", 100.0)):  # third comes after a and b
        crowd(name, place)
    for name in "ab":
        git("checkout", "--quiet", name)
        repository.merge("trunk")
    git("checkout", "--quiet", "trunk")
    for name in "ab":
        git("merge", "--quiet", "--no-ff", "-m", f"By git: {name}", name)
    assert repository.verify().ok and repository.merge("HEAD").kind == "up to date"
    assert set(repository.atlas()) == {"first", "second", "third", "a", "b"}


def test_verify_tells_what_all_later_regions_win_together(crowd: Crowd) -> None:
    repository = crowd("first", 0.0)
    (check,) = [check for check in repository.verify().checks if check.check == "routing"]
    assert "together" not in check.detail
    for name in "ab":
        crowd(name, 0.2, max_takeover=0.2, accept_shadow=True)
    first, *later = routed_regions(repository, repository.atlas())
    hits = torch.stack([won(one.claim, first.claim) for one in later])
    share = hits.any(0).double().mean().item()
    assert hits.double().mean(1).max() < share
    (check,) = [check for check in repository.verify().checks if check.check == "routing"]
    assert f"together win at most {share:.1%} of one, of first" in check.detail


def test_what_is_rolled_back_among_others_leaves_the_routing_lock_whole(crowd: Crowd) -> None:
    crowd("first", 50.0)
    repository = crowd("x", 5.0)
    then, before = repository.git.head(), repository.capability("x")
    repository.remove("x")
    crowd("y", 5.05)
    alone = repository.capability("y")
    repository.rollback("x")
    assert repository.verify().ok
    assert repository.capability("x").unrouted == before.unrouted
    assert repository.capability("y").unrouted == alone.unrouted
    repository.rollback(to=then)
    assert repository.capability("x") == before and repository.verify().ok


def test_a_damaged_capability_does_not_keep_another_from_being_rolled_back(
    crowd: Crowd, caplog: pytest.LogCaptureFixture
) -> None:
    crowd("x", 5.0)
    repository = crowd("y", 50.0)
    repository.remove("x")
    oid = repository.capability("y").regions[0].region.oid
    repository.store.remove(oid)
    repository.rollback("x")
    assert sorted(repository.atlas()) == ["x", "y"]
    assert oid in caplog.text and "niwfctl merge HEAD" in caplog.text


def test_a_merge_reports_which_takeover_it_took_back(
    crowd: Crowd, niwfctl: Callable[..., Result]
) -> None:
    repository = crowd("first", 50.0)
    start = repository.git.head()
    for name, place in (("a", 5.0), ("b", 5.05)):
        repository.git.plain("checkout", "--quiet", "-b", name, start)
        crowd(name, place)
    done = niwfctl("-C", repository.path, "merge", "a", "--json")
    report = json.loads(done.stdout)
    (excess,) = report["takeovers"]
    assert {excess["later"], excess["earlier"]} == {"a", "b"} and excess["allowed"] == 0.02
    assert excess["won"] > 0.02 * excess["anchors"]
    before, after = report["biases"][excess["later"]]
    assert after > before == 0
    repository.operations.undo()
    text = niwfctl("-C", repository.path, "merge", "a").stdout
    assert f"takes over {excess['won']} of {excess['anchors']} anchors of" in text


@pytest.fixture
def late(crowd: Crowd) -> Repository:
    """On `main`, `released`, on the same ground as `late` of the branch, which is as early."""
    repository = crowd("first", 50.0)
    limit(repository, "max_shadow", 1.0, 0.25)
    repository.git.plain("checkout", "--quiet", "-B", "topic")
    crowd("late", 5.0)
    repository.git.plain("checkout", "--quiet", "-B", "main", "topic~1")
    crowd("released", 5.0)
    crowd("apart", -50.0)
    return Repository.open(repository.path)


@pytest.mark.parametrize("branch", ["main", "topic"])
@pytest.mark.parametrize("plain", [False, True], ids=["by niwfctl", "by git, then settled"])
def test_a_merge_warns_of_a_capability_that_lost_its_prompts(
    late: Repository,
    niwfctl: Callable[..., Result],
    caplog: pytest.LogCaptureFixture,
    branch: str,
    plain: bool,
) -> None:
    git = late.git.plain
    git("checkout", "--quiet", branch)
    other = {"main": "topic", "topic": "main"}[branch]
    if plain:
        git("merge", "--quiet", "-m", "By git", other)
    done = niwfctl("-C", late.path, "merge", "HEAD" if plain else other, "--json")
    shadowed = json.loads(done.stdout)["shadowed"]
    ((lost, owners),) = shadowed.items()
    ((owner, share),) = owners.items()
    assert {lost, owner} == {"late", "released"} and 0.25 < share <= 1
    shadow = late.capability(lost).regions[0].routing.shadow
    assert share == shadow[late.capability(owner).regions[0].id]
    assert f"{owner} now owns {share:.0%} of the prompts of '{lost}', more than 25%" in caplog.text
    again = niwfctl("-C", late.path, "merge", "HEAD", "--json")
    assert json.loads(again.stdout)["shadowed"] == {} and len(caplog.records) == 1


def test_a_merge_says_nothing_of_a_shadow_that_its_commit_accepted(
    crowd: Crowd, caplog: pytest.LogCaptureFixture
) -> None:
    repository = crowd("first", 50.0)
    limit(repository, "max_shadow", 1.0, 0.25)
    repository.git.plain("branch", "topic")
    crowd("old", 5.0)
    crowd("new", 5.0, accept_shadow=True)
    released = repository.git.head()
    repository.git.plain("checkout", "--quiet", "topic")
    crowd("apart", -50.0)
    caplog.clear()
    assert Repository.open(repository.path).merge(released).shadowed == {} and not caplog.records
    assert sum(repository.capability("new").regions[0].routing.shadow.values()) > 0.25


def test_what_lost_its_prompts_in_a_merge_has_them_again_once_the_other_is_revised(
    late: Repository, crowd: Crowd
) -> None:
    ((lost, owners),) = late.merge("topic").shadowed.items()
    (owner,) = owners
    crowd(owner, 5.001, late, mode="revise", accept_shadow=True)
    late.merge("HEAD")
    assert late.capability(lost).regions[0].routing.shadow == {}
