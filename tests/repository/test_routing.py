"""Routing without a task id, from commit to answers."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import write_data
from typer.testing import Result

from niwfctl.backbone.batch import pad, prompt_mask
from niwfctl.backbone.prompts import prompt_tokens
from niwfctl.errors import Shadowed
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.model import Model
from niwfctl.training.checkpoint import load, save
from niwfctl.training.data import Message, read_examples

DIM = 8
Crowd = Callable[..., Repository]


@pytest.fixture
def crowd(trained: Repository) -> Crowd:
    """Commits capabilities that lie at given places, of one training's weights."""
    run, tensors = load(trained.trainings.checkpoint("apple"))
    shutil.rmtree(trained.trainings.root / "apple")

    def add(name: str, place: float, repository: Repository = trained, **options) -> Repository:
        random = torch.Generator().manual_seed(sum(name.encode()))
        own = {
            key: torch.randn(len(tensors[key]), DIM, generator=random) * 0.3 + place
            for key in ("coordinates", "held_out")
        }
        record = run.model_copy(update={"name": name, "id": name})
        save(repository.trainings.checkpoint(name), record, tensors | own)
        repository.commit([name], f"Add {name}", RoutingOptions(**options))
        return repository

    return add


def limit_shadow(repository: Repository) -> None:
    config = repository.path / "niwf.toml"
    config.write_text(config.read_text().replace("max_shadow = 1.0", "max_shadow = 0.1"))
    repository.git.plain("commit", "--quiet", "--all", "-m", "Shadow is limited again")
    del repository.config


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


def test_a_shadowed_commit_is_refused_with_the_owner_and_changes_nothing(crowd: Crowd) -> None:
    repository = crowd("old", 5.0)
    limit_shadow(repository)
    head = repository.git.head()
    with pytest.raises(Shadowed, match=r"old owns .*--supersede old"):
        crowd("new", 5.0)
    assert repository.git.head() == head and sorted(repository.atlas()) == ["old"]
    assert [run.name for run in repository.uncommitted()] == ["new"]
    for name, way_out in (("a", "accept_shadow"), ("m", "manual")):
        crowd(name, 5.0, **{way_out: True})
    assert repository.capability("m").regions[0].routing is None
    assert repository.verify().ok


def test_what_supersedes_another_takes_its_ground(crowd: Crowd) -> None:
    crowd("old", 5.0)
    crowd("new", 5.1, max_takeover=0)
    repository = crowd("next", 5.1, max_takeover=0, supersede=("old", "new"))
    bias = {name: one.regions[0].routing.bias for name, one in repository.atlas().items()}
    assert bias["next"] == 0 < bias["new"]
    assert repository.verify().ok


def test_merged_in_any_order_routing_is_settled_alike(crowd: Crowd) -> None:
    repository = crowd("first", 5.0)
    start = repository.git.head()
    for number, name in enumerate("abc"):
        repository.git.plain("checkout", "--quiet", "-b", name, start)
        crowd(name, 5.1 + number / 10)
    found = []
    for order in itertools.permutations("abc"):
        repository.git.plain("checkout", "--quiet", "-B", "trunk", order[0])
        for name in order[1:]:
            repository.merge(name)
        found.append(repository.atlas())
        assert repository.verify().ok
    assert all(atlas == found[0] for atlas in found)
    alone = repository.atlas("c")["c"].regions[0]
    merged = found[0]["c"].regions[0]
    assert merged.region == alone.region and merged.routing.bias > alone.routing.bias


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
    assert done.exit_code == 0 and "bias 0.0 →" in done.stdout
    assert Repository.open(repository.path).verify().ok


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
