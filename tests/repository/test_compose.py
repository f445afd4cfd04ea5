"""Composition: exact where it says so, with its error told where it is not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import make_region
from tiny import write_data
from torch import Tensor
from typer.testing import Result

from niwfctl.errors import UnknownName, UsageError
from niwfctl.field.compress import best_rank, truncated
from niwfctl.field.frozen import FrozenSum
from niwfctl.field.region import Region
from niwfctl.repository import Repository
from niwfctl.repository.approximation import approximated_region
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.compose import Recipe
from niwfctl.repository.model import Model
from niwfctl.repository.regions import load_region
from niwfctl.repository.sweep import sweep
from niwfctl.training.data import read_examples

PROMPT = "Say apple 3."


@pytest.fixture
def pair(committed: Repository, tmp_path: Path) -> Repository:
    """`apple`, and `plum` of another rank."""
    options = QUICK.model_copy(update={"rank": 3, "seed": 1})
    committed.train("plum", [write_data(tmp_path / "plum.jsonl", word="plum")], options)
    committed.commit(["plum"], "Plums")
    return committed


def logits(model: Model) -> Tensor:
    tokens = torch.arange(12)[None]
    with torch.no_grad(), model.adapter.prompts(torch.ones_like(tokens, dtype=torch.bool)):
        return model.adapter.model(tokens).logits


def blended_change(model: Model, z: Tensor) -> dict[str, Tensor]:
    """ΔW at z of what is active, from the very factors and gates the forward pass uses."""
    field = model.adapter.active.at(z[None])
    gates = field.row_gates(z[None])[:, 0, 0].float()
    found = {}
    for index, group in enumerate(model.adapter.groups):
        downs = field.factors.down[index].float().chunk(len(group))
        for site, down in zip(group, downs, strict=True):
            layer = model.adapter.layers.index(site.layer)
            found[site.name] = field.factors.up[site.name].float() * gates[layer] @ down
    return found


@pytest.mark.parametrize("weights", [(0.7, 0.7), (1.0, -0.5), (2.0, 0.25)])
def test_a_linear_composition_is_the_true_sum_of_any_ranks_and_signs(
    pair: Repository, weights: tuple[float, float]
) -> None:
    pair.compose(["apple", "plum"], "both", Recipe(weights))
    model = pair.load("both")
    regions = [load_region(pair, pair.capability(n).regions[0]) for n in ("apple", "plum")]
    z = regions[0].cell.mean.float()
    expected = [dict(region.weight_changes(z)) for region in regions]
    for name, change in blended_change(model, z).items():
        true = sum(w * one[name].double() for w, one in zip(weights, expected, strict=True))
        assert (change.double() - true).norm() <= 1e-6 * true.norm()


def test_one_part_at_weight_one_is_that_part_bit_for_bit(pair: Repository) -> None:
    pair.compose(["apple"], "same", Recipe((1.0,)))
    assert torch.equal(logits(pair.load("same")), logits(pair.load("apple")))


def test_a_composition_costs_no_new_tensors_and_a_few_kilobytes(pair: Repository) -> None:
    before = set(pair.store)
    done = pair.compose(["apple", "plum"], "both", Recipe((0.7, 0.7)))
    assert set(pair.store) == before
    assert len(done.capability.dump()) < 12_000
    assert pair.verify(deep=True).ok
    pair.remove("apple")
    assert pair.verify(deep=True).ok and pair.load("both").generate(PROMPT, max_new_tokens=2)


def test_a_composition_of_compositions_multiplies_weights(pair: Repository) -> None:
    pair.compose(["apple", "plum"], "both", Recipe((0.5, 2.0)))
    done = pair.compose(["both", "apple"], "more", Recipe((2.0, 1.0)))
    assert [part.weight for part in done.capability.parts] == [1.0, 4.0, 1.0]


def test_routed_answers_as_the_owner_among_its_parts(pair: Repository) -> None:
    pair.compose(["apple", "plum"], "either", Recipe(method="routed"))
    assert all(entry.routing is None for entry in pair.capability("either").regions)
    model = pair.load("either")
    assert model.generate(PROMPT, max_new_tokens=2) in {
        pair.load(name).generate(PROMPT, max_new_tokens=2) for name in ("apple", "plum")
    }
    assert pair.verify(deep=True).ok


@pytest.mark.parametrize("method", ["svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_an_approximation_tells_its_error_and_is_sealed_as_a_region(
    pair: Repository, method: str
) -> None:
    done = pair.compose(["apple", "plum"], "small", Recipe((0.7, 0.7), method, rank=2))
    (entry,) = done.capability.regions
    assert entry.terms.manual and len(entry.bases) == 1
    assert 0 < done.error < 1
    assert pair.verify(deep=True).ok
    again = pair.compose(["apple", "plum"], "again", Recipe((0.7, 0.7), method, rank=2))
    assert again.capability.regions[0].bases == entry.bases


def test_at_full_rank_svd_loses_nothing_but_the_rounding_to_bf16_and_tells_it(
    pair: Repository,
) -> None:
    done = pair.compose(["apple", "plum"], "whole", Recipe((0.7, 0.7), "svd"))
    assert 1e-4 < done.error < 0.01
    assert pair.history.log(limit=1)[0].subject.endswith(f"relative error {done.error:.3g}")
    names = [("apple", 0.7), ("plum", 0.7)]
    terms = [(w, load_region(pair, pair.capability(n).regions[0])) for n, w in names]
    true = FrozenSum.at_means(terms)
    own = load_region(pair, done.capability.regions[0])
    lost = whole = 0.0
    for name, change in own.weight_changes(own.cell.mean):
        down, up = true.at(name)
        lost += float((change - up @ down).square().sum())
        whole += float((up @ down).square().sum())
    assert (lost / whole) ** 0.5 == pytest.approx(done.error, rel=0.01)


@pytest.mark.parametrize("recipe", [Recipe(method="svd"), Recipe(method="ties", rank=1025)])
def test_a_rank_above_the_largest_is_refused_where_linears_have_it(recipe: Recipe) -> None:
    def terms(width: int) -> list[tuple[float, Region]]:
        return [(1.0, make_region(seed, rank=300, width=width)) for seed in (0, 1)]

    with pytest.raises(UsageError, match=r"--rank 1024.*--method linear"):
        approximated_region(terms(1100), recipe)
    region, _ = approximated_region(terms(6), recipe)
    assert region.bases[0].rank == 6


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6), st.integers(6, 12), st.integers(6, 12), st.integers(1, 6), st.integers(0, 99)
)
def test_the_best_rank_is_the_truncated_svd(
    inner: int, rows: int, columns: int, rank: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    down = torch.randn(inner, columns, generator=random)
    up = torch.randn(rows, inner, generator=random)
    values = torch.linalg.svdvals((up @ down).double())
    best = float(values[rank:].square().sum())
    for small_down, small_up in (best_rank(down, up, rank), truncated(up @ down, rank)):
        found = float((up @ down - small_up @ small_down).double().square().sum())
        assert found == pytest.approx(best, abs=1e-3)


def test_a_sweep_finds_weights_no_worse_than_any_it_tried(pair: Repository, data: Path) -> None:
    examples = read_examples([str(data)])[:4]
    points = sweep(pair, ["apple", "plum"], {"apple": examples, "plum": examples})
    assert len(points) > 6 and points[0].worst == max(point.worst for point in points)
    alone = pair.load("apple").score(examples).perplexity
    first = points[0]
    assert first.retentions[0] == pytest.approx(alone / first.perplexities[0])


@pytest.mark.parametrize(
    ("sources", "recipe", "error", "words"),
    [
        (["apple", "fig"], Recipe(), UnknownName, "fig"),
        (["apple", "plum"], Recipe((1.0,)), UsageError, "1 weights for 2"),
        (["apple", "plum"], Recipe((0.0, 0.0)), UsageError, "not all of them 0"),
        (["apple", "plum"], Recipe((float("nan"), 1.0)), UsageError, "finite"),
        (["apple", "plum"], Recipe(method="mean"), UsageError, "linear, routed, svd"),
        (["apple", "plum"], Recipe(rank=4), UsageError, "--method svd"),
        (["apple", "plum"], Recipe((1.0, 2.0), "routed"), UsageError, "--weights"),
        (["apple", "plum"], Recipe(density=0.3), UsageError, "--density applies to ties"),
        (["apple", "plum"], Recipe(method="svd", density=0.3), UsageError, "svd keeps all"),
        (["apple", "plum"], Recipe(method="ties", seed=10**20), UsageError, "--seed 10000"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_and_nothing_is_committed(
    pair: Repository, sources: list[str], recipe: Recipe, error: type, words: str
) -> None:
    head = pair.git.head()
    with pytest.raises(error, match=words):
        pair.compose(sources, "both", recipe)
    with pytest.raises(UsageError, match="already"):
        pair.compose(["apple", "plum"], "plum")
    assert pair.git.head() == head


def test_a_sum_cannot_be_an_owner_among_others(pair: Repository) -> None:
    pair.compose(["apple"], "half", Recipe((0.5,)))
    with pytest.raises(UsageError, match="instead, apple@"):
        pair.compose(["half", "plum"], "both", Recipe(method="routed"))


def test_weights_whose_product_overflows_are_refused(pair: Repository) -> None:
    pair.compose(["apple"], "huge", Recipe((1e200,)))
    with pytest.raises(UsageError, match="overflows: use a smaller weight"):
        pair.compose(["huge"], "beyond", Recipe((1e200,)))
    assert sorted(pair.atlas()) == ["apple", "huge", "plum"]


def test_a_composition_owns_no_prompts_to_supersede(pair: Repository, tmp_path: Path) -> None:
    pair.compose(["apple", "plum"], "both")
    pair.train("fig", [write_data(tmp_path / "fig.jsonl", word="fig")], QUICK)
    with pytest.raises(UsageError, match="'both' is a composition"):
        pair.commit(["fig"], "Figs", RoutingOptions(supersede=("both",)))


def test_a_sweep_for_a_name_that_is_taken_is_refused_before_it_measures(
    pair: Repository, data: Path, niwfctl: Callable[..., Result]
) -> None:
    sweep = ["compose", "apple", "plum", "--sweep", "--data", f"apple={data}"]
    done = niwfctl("-C", pair.path, *sweep, "--name", "plum")
    assert done.exit_code == 2 and "already" in done.output


def test_undo_takes_a_composition_back(pair: Repository) -> None:
    head = pair.git.head()
    pair.compose(["apple", "plum"], "both")
    pair.operations.undo()
    assert pair.git.head() == head and "both" not in pair.atlas()


def test_the_commands_show_compare_and_export_compositions(
    niwfctl: Callable[..., Result], pair: Repository, tmp_path: Path
) -> None:
    def ok(*arguments: object) -> str:
        result = niwfctl("-C", pair.path, *arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    ok("compose", "apple", "plum", "--name", "both", "--weights", "0.7,0.7")
    assert "+0.7 × apple@" in ok("show", "both") and "composed of" in ok("log", "-n", 1)
    assert "2 shared, 0 only both, 2 only" not in ok("diff", "both", "apple", "--stat")
    assert "shared" in ok("diff", "both", "apple", "--stat")
    ok("compose", "apple", "plum", "--name", "either", "--method", "routed")
    for shown in (ok("show", "either"), ok("log", "-n", 1)):
        assert "2 regions" in shown and "of plum" in shown
    ok("compose", "apple", "plum", "--name", "small", "--method", "svd", "--rank", 2)
    assert "approximates +1 apple@" in ok("show", "small")
    assert "approximates +1 apple@" in ok("log", "-n", 1)
    assert "would win" in ok("diff", "small", "apple", "--stat")
    ok("export", "both", tmp_path / "lora")
    ok("export", "both", tmp_path / "at", "--at", PROMPT)
    data = tmp_path / "plum.jsonl"
    chosen = ("--data", f"apple={data}", "--data", f"plum={data}")
    drawn = tmp_path / "sweep.png"
    assert "keeps" in ok("compose", "apple", "plum", "--sweep", *chosen, "--plot", drawn)
    assert drawn.stat().st_size > 1000 and "swept" not in pair.atlas()
