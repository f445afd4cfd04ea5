"""What is measured is remembered under all that it depends on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import write_data

from niwfctl.atlas import Capability
from niwfctl.backbone.platform import threads_of
from niwfctl.repository import Repository
from niwfctl.repository.compose import Recipe
from niwfctl.repository.measure import Bench, Data, Measured, base, named, routed


class Told(list):
    """What a bench says is measured, each once."""

    def __call__(self, what: str, done: int, rows: int) -> None:
        if rows and done == 0:
            self.append(what)


def measure(repository: Repository, target: str | None, data: Data, **how: object) -> list[str]:
    """What had to be measured, so that it can be said how well `target` answers `data`."""
    told = Told()
    subject = named(target, repository.capability(target)) if target else base()
    Bench(repository, told, how.pop("recall", True)).measure(subject, data, **how)
    return told


def biased(capability: Capability) -> Capability:
    """A capability as a merge may leave it: of another bias."""
    (entry,) = capability.regions
    routing = entry.routing.model_copy(update={"bias": entry.routing.bias + 1})
    return capability.model_copy(
        update={"regions": (entry.model_copy(update={"routing": routing}),)}
    )


@pytest.fixture
def apples(data: Path) -> Data:
    return Data.read([str(data)])


def test_figures_are_what_the_model_scores_and_answers(committed: Repository, apples: Data) -> None:
    model = committed.load("apple")
    answers = model.answers(apples.examples[:10], 4)
    half = [
        replace(one, answer=answer if row % 2 else f"{answer}!")
        for row, (one, answer) in enumerate(zip(apples.examples, answers, strict=False))
    ]
    data = Data(tuple(half), "half")
    subject = named("apple", committed.capability("apple"))
    found = Bench(committed).measure(subject, data, exact_match=True, longest_answer=4)
    score = model.score(half)
    assert found == Measured(score.perplexity, score.tokens, 0.5)


def test_what_is_unchanged_is_measured_once(committed: Repository, apples: Data) -> None:
    assert measure(committed, "apple", apples) == ["apple"]
    assert measure(committed, "apple", apples) == []
    committed.rename("apple", "pear")
    assert measure(committed, "pear", apples) == measure(committed, "apple@HEAD~1", apples) == []


def test_what_a_figure_depends_on_has_it_measured_again(
    committed: Repository, data: Path, apples: Data, tmp_path: Path
) -> None:
    measure(committed, "apple", apples)
    more = Data.read([str(write_data(tmp_path / "more.jsonl", rows=41))])
    assert measure(committed, "apple", more) == ["apple"]
    assert measure(committed, None, apples) == ["base"]
    assert measure(committed, "apple", apples, batch_size=4) == ["apple"]
    with threads_of({"threads": 2}):
        assert measure(committed, "apple", apples) == ["apple"]
    torch.set_float32_matmul_precision("medium")
    try:
        assert measure(committed, "apple", apples) == ["apple"]
    finally:
        torch.set_float32_matmul_precision("highest")
    first = committed.git.head()
    committed.train("apple", [data], QUICK.model_copy(update={"mode": "revise", "seed": 1}))
    committed.commit(["apple"], "Revised")
    assert measure(committed, "apple", apples) == ["apple"]
    assert measure(committed, f"apple@{first}", apples) == []
    assert measure(committed, "apple", apples, recall=False) == ["apple"]


def test_a_capability_that_only_routing_changed_is_not_measured_again(
    committed: Repository, apples: Data
) -> None:
    measure(committed, "apple", apples)
    subject = named("apple", biased(committed.capability("apple")))
    told = Told()
    Bench(committed, told).measure(subject, apples)
    assert told == []


def test_compositions_of_the_same_objects_are_told_apart(
    committed: Repository, apples: Data
) -> None:
    for name, weights in (("half", (0.5,)), ("twice", (2.0,))):
        committed.compose(["apple"], name, Recipe(weights))
    assert committed.capability("half").objects == committed.capability("twice").objects
    assert measure(committed, "half", apples) == ["half"]
    assert measure(committed, "twice", apples) == ["twice"]
    found = [
        Bench(committed).measure(named(name, committed.capability(name)), apples).perplexity
        for name in ("half", "twice")
    ]
    assert found == [
        committed.load(name).score(apples.examples).perplexity for name in ("half", "twice")
    ]


def test_exact_match_is_remembered_apart(committed: Repository, apples: Data) -> None:
    how = {"exact_match": True, "longest_answer": 2}
    assert measure(committed, "apple", apples) == ["apple"]
    assert measure(committed, "apple", apples, **how) == ["apple"]
    assert measure(committed, "apple", apples, **how) == []
    assert measure(committed, "apple", apples, **how | {"longest_answer": 3}) == ["apple"]


def test_the_router_is_measured_again_when_a_bias_changes(
    committed: Repository, apples: Data
) -> None:
    told = Told()
    bench = Bench(committed, told)
    atlas = committed.atlas()
    for _ in range(2):
        bench.measure(routed("HEAD", atlas), apples)
    assert told == ["--auto"]
    bench.measure(routed("HEAD", {"apple": biased(atlas["apple"])}), apples)
    assert told == ["--auto", "--auto"]


def test_a_router_without_capabilities_is_the_base(fresh: Repository, apples: Data) -> None:
    found = Bench(fresh, recall=False).measure(routed("HEAD", fresh.atlas()), apples)
    assert found == Bench(fresh, recall=False).measure(base(), apples)


def test_a_memory_that_is_damaged_or_cannot_be_written_only_costs_time(
    committed: Repository, apples: Data
) -> None:
    folder = committed.private / "cache" / "measured"
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")
    assert measure(committed, "apple", apples) == measure(committed, "apple", apples) == ["apple"]
    folder.unlink()
    measure(committed, "apple", apples)
    (figures,) = folder.iterdir()
    for nonsense in ("", "[]", "{}", '{"perplexity": "low", "tokens": 3}'):
        figures.write_text(nonsense)
        assert measure(committed, "apple", apples) == ["apple"], nonsense


def test_an_interruption_keeps_what_is_measured(committed: Repository, apples: Data) -> None:
    def interrupt(what: str, done: int, rows: int) -> None:
        if what == "apple" and done == 16:
            raise KeyboardInterrupt

    bench = Bench(committed, interrupt)
    bench.measure(base(), apples)
    with pytest.raises(KeyboardInterrupt):
        bench.measure(named("apple", committed.capability("apple")), apples)
    assert measure(committed, None, apples) == []
    assert measure(committed, "apple", apples) == ["apple"]
    assert committed.verify().ok
