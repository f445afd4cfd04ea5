"""Routing without a task id, from commit to answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from histories import limit
from tiny import write_data
from typer.testing import Result

from niwfctl.backbone.batch import pad, prompt_mask
from niwfctl.backbone.prompts import prompt_tokens
from niwfctl.errors import Shadowed
from niwfctl.field.routing import owners, upper_bound
from niwfctl.layout import manifest_file
from niwfctl.records import Message
from niwfctl.repository import Repository
from niwfctl.repository.model import Model
from niwfctl.repository.routing import base_cell, routed_regions
from niwfctl.training.data import read_examples

DIM = 8
Crowd = Callable[..., Repository]


def rewritten(repository: Repository, name: str, change: Callable[[dict], object]) -> None:
    """Commits a manifest that somebody edited by hand."""
    file = repository.path / manifest_file(name)
    plain = json.loads(file.read_text())
    change(plain["regions"][0]["routing"])
    file.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
    repository.git.plain("commit", "--quiet", "--all", "-m", "By hand")


def test_a_later_region_takes_over_no_more_than_its_terms_allow(crowd: Crowd) -> None:
    crowd("old", 5.0)
    repository = crowd("strict", 5.1, max_takeover=0)
    (entry,) = repository.capability("strict").regions
    (count,) = entry.routing.takeover
    assert entry.routing.bias > 0 and count.won == 0 and 0 < count.bound < 0.2
    crowd("loose", 5.1, max_takeover=0.1)
    (entry,) = repository.capability("loose").regions
    assert all(count.won <= 0.1 * count.anchors for count in entry.routing.takeover)
    assert repository.verify().ok


def test_at_no_takeover_odd_anchors_keep_their_neighbourhoods_and_shut_nobody_out(
    crowd: Crowd, niwfctl: Callable[..., Result]
) -> None:
    crowd("broad", 5.0, odd=(1, 9.0))
    repository = crowd("new", 9.0, max_takeover=0)
    (entry,) = repository.capability("new").regions
    (count,) = entry.routing.takeover
    assert count.won == 0 and len(count.disputed) == 1
    assert count.bound == upper_bound(1, count.anchors)  # of other prompts it may win such ones
    assert entry.routing.bias == 0 and entry.routing.shadow == {}
    broad, new = (routed.claim for routed in routed_regions(repository, repository.atlas()))
    odd = broad.anchors[list(count.disputed)]
    base = base_cell(repository)
    assert owners(odd, base, [broad, new]).tolist() != [1]
    assert owners(odd, base, [broad, replace(new, disputed=None)]).tolist() == [1]
    assert entry.routing.ceded == new.ceded_share() < 0.1
    assert repository.verify().ok
    shown = niwfctl("-C", repository.path, "show", "new").stdout
    assert "1 disputed anchor" in " ".join(shown.split())
    rewritten(repository, "new", lambda routing: routing["takeover"][0].update(disputed=[]))
    (failed,) = [check for check in repository.verify().checks if not check.ok]
    assert failed.check == "routing" and "new takes over 1 of" in failed.detail
    assert repository.merge("HEAD").kind == "settled" and repository.verify().ok


def test_a_removed_owner_leaves_no_neighbourhoods_behind(crowd: Crowd) -> None:
    crowd("broad", 5.0, odd=(1, 9.0))
    repository = crowd("new", 9.0, max_takeover=0)
    repository.remove("broad")
    (routed,) = routed_regions(repository, repository.atlas())
    assert routed.claim.disputed is None and repository.verify().ok


def test_a_newcomer_is_held_against_older_regions_however_many_were_removed(crowd: Crowd) -> None:
    for name, place in (("first", 20.0), ("second", 30.0), ("old", 5.0)):
        repository = crowd(name, place)
    for name in ("first", "second"):
        repository.remove(name)
    crowd("new", 5.1, accept_shadow=True)
    assert [routed.name for routed in routed_regions(repository, repository.atlas())] == [
        "old",
        "new",
    ]
    (entry,) = repository.capability("new").regions
    assert entry.routing.bias > 0
    assert all(count.won <= 0.02 * count.anchors for count in entry.routing.takeover)
    assert repository.verify().ok


@pytest.mark.parametrize("figure", ["bias", "margin"])
def test_a_figure_that_silences_a_capability_is_told(
    crowd: Crowd, niwfctl: Callable[..., Result], figure: str
) -> None:
    crowd("old", 5.0)
    repository = crowd("new", 5.3, accept_shadow=True, max_takeover=1)
    rewritten(repository, "new", lambda routing: routing.update({figure: 500.0}))
    (routing,) = [check for check in repository.verify().checks if check.check == "routing"]
    assert "new is held back more than its terms ask for, and loses " in routing.detail
    shown = niwfctl("-C", repository.path, "diff").stdout
    assert f"{figure} " in shown and "→ 500.0" in shown
    assert repository.merge("HEAD").kind == "settled"
    (routing,) = [check for check in repository.verify().checks if check.check == "routing"]
    assert "held back" not in routing.detail


def test_terms_that_let_a_capability_take_more_are_told(crowd: Crowd) -> None:
    crowd("old", 5.0)
    crowd("loose", 20.0, max_takeover=0.5)
    repository = crowd("heir", 5.1, supersede=("old",))
    (routing,) = [check for check in repository.verify().checks if check.check == "routing"]
    assert "loose may take over 50% of each earlier one" in routing.detail
    assert "heir competes with old on equal terms" in routing.detail


def test_a_region_wins_no_more_of_the_base_than_it_may(crowd: Crowd) -> None:
    limit(crowd("far", 50.0), "max_base_takeover", 0.05, 0.01)
    repository = crowd("wide", 0.0)
    (entry,) = repository.capability("wide").regions
    base = entry.routing.base
    assert entry.routing.margin > 0 and base.won <= 0.01 * base.anchors < base.won + 1
    assert repository.verify().ok
    rewritten(repository, "wide", lambda routing: routing.update(margin=0.0))
    (failed,) = [check for check in repository.verify().checks if not check.ok]
    assert failed.check == "routing" and "anchors of the base" in failed.detail
    assert repository.merge("HEAD").kind == "settled" and repository.verify().ok
    assert repository.capability("wide").regions[0] == entry


def test_a_general_capability_answers_for_the_base_and_leaves_others_theirs(crowd: Crowd) -> None:
    crowd("old", 5.0)
    start = crowd("broad", 0.3, general=True)
    names, prompts = ["old", "broad"], start.load(auto=True)
    found = [prompts.bids(prompt) for prompt in ("Say apple 3.", "What is a lake?", "Why?")]
    assert [one[0][0] for one in found] == ["broad"] * 3
    assert all(dict(one)[None] is None for one in found)  # the base bids no more
    general = start.capability("broad").regions[0]
    assert general.terms.general and general.routing.margin == 0 and general.routing.base is None
    assert "base" not in general.routing.shadow
    later = crowd("later", -5.0)
    crowd("broader", 0.2, general=True)
    claims = {routed.name: routed.claim for routed in routed_regions(later, later.atlas())}
    assert {name for name, one in claims.items() if one.general} == {"broad", "broader"}
    base = base_cell(later)
    for name in (*names, "later"):
        anchors, index = claims[name].anchors, list(claims).index(name)
        assert (owners(anchors, base, list(claims.values())) == index).double().mean() > 0.9, name
    crowd("broadest", 0.2, general=True, supersede=("broad", "broader"))
    general = {s.name for s in routed_regions(later, later.atlas()) if s.claim.general}
    assert general == {"broadest"} and later.verify().ok


def test_show_tells_by_name_who_owns_prompts_of_another(
    crowd: Crowd, niwfctl: Callable[..., Result]
) -> None:
    crowd("old", 5.0)
    repository = crowd("new", 5.0)
    crowd("newest", 5.0).rename("old", "older")
    for target, owner in (("new", "older"), ("new@HEAD~1", "old"), ("HEAD~2", "old")):
        shown = niwfctl("-C", repository.path, "show", target)
        assert f"{owner} owns" in " ".join(shown.stdout.split()), target


def test_a_shadowed_commit_is_refused_with_the_owner_and_changes_nothing(crowd: Crowd) -> None:
    repository = crowd("old", 5.0)
    limit(repository, "max_shadow", 1.0, 0.1)
    head = repository.git.head()
    with pytest.raises(Shadowed, match=r"old owns .*--supersede old"):
        crowd("new", 5.0)
    assert repository.git.head() == head and sorted(repository.atlas()) == ["old"]
    assert [run.name for run in repository.uncommitted()] == ["new"]
    for name, way_out in (("a", "accept_shadow"), ("m", "manual")):
        crowd(name, 5.0, **{way_out: True})
    assert repository.capability("m").regions[0].routing is None
    assert repository.verify().ok


def test_of_two_capabilities_with_one_region_the_earlier_is_named_as_the_owner(
    crowd: Crowd, niwfctl: Callable[..., Result]
) -> None:
    repository = crowd("abc", 5.0)
    crowd("acb", 5.0)  # the same letters give the same coordinates
    one, two = (repository.capability(name).regions[0] for name in ("abc", "acb"))
    assert one.id == two.id
    shown = niwfctl("-C", repository.path, "show", "acb").stdout
    assert "abc owns" in " ".join(shown.split())
    limit(repository, "max_shadow", 1.0, 0.1)
    with pytest.raises(Shadowed, match=r"'bca' would be.*: abc owns .*--supersede abc"):
        crowd("bca", 5.0)


def test_a_shadow_counts_all_regions_of_an_owner(crowd: Crowd) -> None:
    crowd("old", 5.0)
    repository = crowd("old", 9.0, mode="extend")
    limit(repository, "max_shadow", 1.0, 0.7)
    with pytest.raises(Shadowed, match=r"'new' would be shadowed: old owns \d+% of its prompts"):
        crowd("new", 5.0, odd=(50, 9.0))
    (entry,) = crowd("new", 5.0, odd=(50, 9.0), accept_shadow=True).capability("new").regions
    shares = entry.routing.shadow.values()
    assert len(shares) == 2 and max(shares) < 0.7 < sum(shares)


def test_an_extension_is_not_judged_by_a_region_that_was_let_in(crowd: Crowd) -> None:
    repository = crowd("old", 5.0)
    limit(repository, "max_shadow", 1.0, 0.1)
    crowd("x", 5.0, accept_shadow=True)
    crowd("x", -5.0, mode="extend")
    assert len(repository.capability("x").regions) == 2
    with pytest.raises(Shadowed, match="x owns"):
        crowd("x", -5.1, mode="extend")


def test_what_supersedes_another_takes_its_ground(crowd: Crowd) -> None:
    crowd("old", 5.0)
    crowd("new", 5.1, max_takeover=0)
    repository = crowd("next", 5.1, max_takeover=0, supersede=("old", "new"))
    bias = {name: one.regions[0].routing.bias for name, one in repository.atlas().items()}
    assert bias["next"] == 0 < bias["new"]
    assert repository.verify().ok


def test_what_the_superseded_still_owns_is_said(
    crowd: Crowd, caplog: pytest.LogCaptureFixture
) -> None:
    repository = crowd("old", 5.0)
    limit(repository, "max_shadow", 1.0, 0.1)
    crowd("far", -5.0, supersede=("old",))
    assert not caplog.messages
    crowd("new", 5.0, supersede=("old",))
    (said,) = caplog.messages
    assert "old still owns" in said and "of the prompts of 'new'" in said
    assert "`niwfctl rm old`" in said


@torch.no_grad()
def last_logits(model: Model, rows: list[list[int]]) -> torch.Tensor:
    tokens, lengths = pad(rows), [len(row) for row in rows]
    with model.adapter.prompts(prompt_mask(lengths, tokens.shape[1], model.skip)):
        logits = model.backbone.model(tokens).logits
    return logits[range(len(rows)), [length - 1 for length in lengths]]


@pytest.fixture
def routed(fresh: Repository, tmp_path: Path) -> Repository:
    """Two capabilities of different data, far enough apart for a tiny model."""
    for name, words in (("apple", "Say apple"), ("plum", "zzz qqq plum")):
        data = write_data(tmp_path / f"{name}.jsonl")
        data.write_text(data.read_text().replace("Say apple", words))
        fresh.train(name, [data], QUICK.model_copy(update={"lr": 0.3, "seed": len(name)}))
        fresh.commit([name], name)
    return fresh


def test_a_batch_of_mixed_owners_answers_each_row_as_if_alone(routed: Repository) -> None:
    model = routed.load(auto=True)
    prompts = ["Say apple 3.", "zzz qqq plum 5.", "Say apple 7.", "zzz qqq plum 1.", "?"]
    owners = [model.bids(prompt)[0][0] for prompt in prompts]
    assert {"apple", "plum"} <= set(owners)
    rows = [prompt_tokens(model.backbone.tokenizer, [Message("user", one)]) for one in prompts]
    together = last_logits(model, rows)
    for row, owner, found in zip(rows, owners, together, strict=True):
        model.use(owner)
        alone = last_logits(model, [row])[0]
        assert (found - alone).std() < 0.02 * alone.std(), owner  # the model computes in bf16


def test_with_one_owner_auto_gives_the_bits_of_the_capability_given_by_name(
    routed: Repository, tmp_path: Path
) -> None:
    model = routed.load(auto=True)
    data = write_data(tmp_path / "more.jsonl")
    apples = [one for one in read_examples([str(data)]) if model.owners([one]) == ["apple"]]
    assert apples
    routed_score = model.score(apples)
    model.use("apple")
    assert model.score(apples).perplexity == routed_score.perplexity


def test_route_run_and_eval_route_from_the_command_line(
    routed: Repository, tmp_path: Path, niwfctl: Callable[..., Result]
) -> None:
    data = write_data(tmp_path / "more.jsonl")
    done = niwfctl("-C", routed.path, "route", "Say apple 3.")
    assert done.exit_code == 0 and done.stdout.startswith("→ apple")
    done = niwfctl("-C", routed.path, "route", "--data", data)
    assert done.exit_code == 0 and "apple" in done.stdout and "40" in done.stdout
    done = niwfctl("-C", routed.path, "eval", "apple", "--auto", "--data", data)
    assert done.exit_code == 0 and "--auto" in done.stdout
    done = niwfctl("-C", routed.path, "run", "--auto", "--max-new-tokens", 2, "Say apple 3.")
    assert done.exit_code == 0
    done = niwfctl("-C", routed.path, "route")
    assert done.exit_code == 2 and "--data" in done.stderr


def test_where_nothing_is_committed_the_base_owns_every_prompt(
    fresh: Repository, data: Path, niwfctl: Callable[..., Result]
) -> None:
    done = niwfctl("-C", fresh.path, "run", "--auto", "--max-new-tokens", 1, "--json", "hello")
    assert done.exit_code == 0 and json.loads(done.stdout)["capability"] is None
    done = niwfctl("-C", fresh.path, "route", "--data", data, "--json")
    assert json.loads(done.stdout)[0]["owners"] == {"base": 40}
