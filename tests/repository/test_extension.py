"""Extending, revising and reusing: what is sealed is read, and never written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import write_data
from typer.testing import Result

from niwfctl.errors import TrainingInterrupted, UnknownName, UsageError
from niwfctl.repository import Repository
from niwfctl.repository.mixture import of_capability
from niwfctl.repository.regions import load_region
from niwfctl.training.data import read_examples
from niwfctl.training.run import TrainingOptions

STEPS = {"steps": 3, "batch_size": 4, "rank": 2, "val_split": 0.2, "lr": 0.01}


def options(**more: object) -> TrainingOptions:
    return TrainingOptions(**(STEPS | more))


@pytest.fixture
def pears(tmp_path: Path) -> Path:
    return write_data(tmp_path / "pear.jsonl", word="pear")


def test_an_extension_adds_a_region_and_leaves_the_old_one_as_it_is(
    committed: Repository, pears: Path
) -> None:
    before = committed.capability("apple")
    run = committed.train("apple", [pears], options(mode="extend"))
    assert run.options.bases == 1
    assert [one.oid for one in run.reused] == [ref.oid for ref in before.regions[0].bases]
    committed.commit(["apple"], "Pears, too")
    old, new = committed.capability("apple").regions
    assert old.region == before.regions[0].region and old.bases == before.regions[0].bases
    assert new.bases[:2] == old.bases and len(new.bases) == 3
    assert committed.verify(deep=True).ok


def test_of_several_regions_the_one_that_owns_the_prompt_answers_it(
    committed: Repository, pears: Path
) -> None:
    committed.train("apple", [pears], options(mode="extend"))
    committed.commit(["apple"], "Pears, too")
    old, new = committed.capability("apple").regions
    model = committed.load("apple")
    regions = [load_region(committed, entry) for entry in (old, new)]
    for place, region in enumerate(regions):
        z = region.cell.mean.float()[None]
        active = model.adapter.active.at(z)
        owner = model.adapter.active._shares(z)[0].tolist()
        assert sum(owner) == 1
        if owner[place] == 1:
            assert active is model.resident.field((old, new)[place])
    assert model.generate("Say apple 3.", max_new_tokens=2) is not None


def test_which_region_answers_does_not_change_with_the_routing_of_others(
    committed: Repository, pears: Path
) -> None:
    committed.train("apple", [pears], options(mode="extend"))
    committed.commit(["apple"], "Pears, too")
    before = committed.capability("apple")
    old, new = before.regions
    routing = new.routing.model_copy(update={"bias": new.routing.bias + 40.0})  # as a merge may
    after = before.model_copy(
        update={"regions": (old, new.model_copy(update={"routing": routing}))}
    )
    z = torch.cat([load_region(committed, one).anchors for one in (old, new)]).float()
    shares = [of_capability(committed, one).shares(z) for one in (before, after)]
    assert torch.equal(*shares) and 0 < shares[0][:, 1].mean() < 1


def test_a_merge_tells_the_bias_of_every_region_that_it_sets_anew(
    committed: Repository, pears: Path
) -> None:
    committed.train("apple", [pears], options(mode="extend"))
    committed.commit(["apple"], "Pears, too")
    file = committed.path / "capabilities" / "apple.json"
    manifest = json.loads(file.read_text())
    old = manifest["regions"][0]
    bias = old["routing"]["bias"]
    old["routing"]["bias"] = bias + 40.0
    file.write_text(json.dumps(manifest))
    committed.git.plain("commit", "--quiet", "--all", "-m", "As plain git may leave it")
    merged = committed.merge("HEAD")
    region = committed.capability("apple").regions[0].id
    assert merged.biases == {f"apple/{region}": (bias + 40.0, bias)}


def test_a_revision_replaces_the_capability_at_head_and_history_keeps_the_old(
    committed: Repository, pears: Path
) -> None:
    before = committed.capability("apple")
    first = committed.git.head()
    committed.train("apple", [pears], options(mode="revise"))
    committed.commit(["apple"], "Better apples")
    after = committed.capability("apple")
    assert len(after.regions) == 1 and after.regions[0].region != before.regions[0].region
    assert committed.capability(f"apple@{first}") == before
    assert committed.verify(revision=first).ok and committed.verify().ok
    committed.rollback("apple")
    assert committed.capability("apple").regions[0].region == before.regions[0].region


def test_reused_bases_are_gated_and_stored_once(committed: Repository, pears: Path) -> None:
    shared = committed.capability("apple").regions[0].bases
    bits = [committed.store.path(ref.oid).read_bytes() for ref in shared]
    committed.train("pear", [pears], options(reuse=("apple",), alpha=3.0))
    committed.commit(["pear"], "Pears")
    (entry,) = committed.capability("pear").regions
    assert entry.bases[:2] == shared and len(entry.bases) == 3
    assert [committed.store.path(ref.oid).read_bytes() for ref in shared] == bits
    assert committed.verify(deep=True).ok
    committed.remove("apple")
    assert committed.verify(["pear"], deep=True).ok  # bases that others use stay


def test_reused_bases_begin_as_they_were_sealed_under_any_alpha(
    committed: Repository, pears: Path
) -> None:
    apple = load_region(committed, committed.capability("apple").regions[0])
    committed.train("pear", [pears], options(reuse=("apple",), alpha=3.0, steps=1, lr=1e-9))
    committed.commit(["pear"], "Pears")
    pear = load_region(committed, committed.capability("pear").regions[0])
    z = torch.zeros(8)
    sealed = [apple.scale * (b.up[n] @ b.down[n]) for b in apple.bases for n in [*b.up][:1]]
    gates = pear.gates(z)[0] * pear.scale
    name = next(iter(apple.bases[0].up))
    for index, (basis, expected) in enumerate(zip(apple.bases, sealed, strict=True)):
        found = gates[index] * (basis.up[name] @ basis.down[name])
        assert torch.allclose(found.float(), expected.float(), rtol=1e-5, atol=1e-9)


def test_a_basis_reused_twice_keeps_the_strength_that_it_was_sealed_under(
    committed: Repository, pears: Path
) -> None:
    committed.train("pear", [pears], options(reuse=("apple",), alpha=3.0))
    committed.commit(["pear"], "Pears")
    run = committed.train("plum", [pears], options(reuse=("pear",), steps=1))
    (apple,) = committed.capability("apple").regions
    (pear,) = committed.capability("pear").regions
    sealed_by_apple = {ref.oid for ref in apple.bases}
    assert apple.scale != pear.scale
    for one in run.reused:
        assert one.scale == (apple.scale if one.oid in sealed_by_apple else pear.scale)


def test_an_interrupted_extension_resumes_to_the_same_bits(
    committed: Repository, pears: Path
) -> None:
    whole = committed.train("apple", [pears], options(mode="extend"))
    committed.operations.undo()
    calls = iter([False, True])
    with pytest.raises(TrainingInterrupted):
        committed.train(
            "apple",
            [pears],
            options(mode="extend"),
            stop=lambda: committed.trainings.get("apple") is None and next(calls, True),
        )
    again = committed.train("apple", resume=True)
    assert again.witness.digest == whole.witness.digest and again.reused == whole.reused


def test_automatic_reuse_takes_what_lowers_the_loss_and_nothing_else(
    committed: Repository, data: Path, pears: Path
) -> None:
    strong = options(steps=60, lr=0.05, mode="revise")
    committed.train("apple", [data], strong)
    committed.commit(["apple"], "Strong apples")
    alike = committed.train("alike", [data], options(reuse=("auto",)))
    assert {one.of for one in alike.reused} == {"apple"}
    model = committed.load(None)
    base = model.score(read_examples([str(data)])).perplexity
    model.use("apple")
    assert model.score(read_examples([str(data)])).perplexity < base  # or there is nothing to take


@pytest.mark.parametrize("mode", ["revise", "extend"])
def test_a_training_that_is_worse_than_what_is_committed_says_so(
    committed: Repository, data: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    committed.train("apple", [data], options(mode=mode, lr=0.05, steps=20))
    assert not any("as it is committed" in message for message in caplog.messages)
    committed.train("apple", [data], options(mode="revise", lr=1e-9, steps=1), restart=True)
    assert any("'apple' as it is committed has" in message for message in caplog.messages)


def test_a_capability_whose_objects_are_lost_can_be_trained_anew(
    committed: Repository, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    committed.store.path(committed.capability("apple").objects[0].oid).unlink()
    assert committed.train("apple", [data], options(mode="revise")).finished
    assert any("cannot be compared with" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("name", "more", "error", "words"),
    [
        ("apple", {}, UsageError, "--extend.*--revise"),
        ("plum", {"mode": "extend"}, UnknownName, "plum"),
        ("plum", {"mode": "revise"}, UnknownName, "plum"),
        ("plum", {"reuse": ("fig",)}, UnknownName, "fig"),
    ],
)
def test_impossible_requests_are_refused_and_nothing_is_trained(
    committed: Repository, pears: Path, name: str, more: dict, error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        committed.train(name, [pears], options(**more))
    assert committed.trainings.runs() == []


def test_one_basis_is_enough_beside_reused_ones_unless_more_are_asked_for(
    committed: Repository, pears: Path
) -> None:
    assert committed.train("pear", [pears], options(reuse=("apple",))).options.bases == 1
    run = committed.train("plum", [pears], options(reuse=("apple",), bases=3))
    assert run.options.bases == 3
    assert QUICK.bases == 2


def test_a_capability_of_several_regions_is_compared_by_revisions(
    niwfctl: Callable[..., Result], committed: Repository, pears: Path
) -> None:
    committed.train("apple", [pears], options(mode="extend"))
    committed.commit(["apple"], "Pears, too")
    for targets in (["apple"], ["apple@HEAD~1", "apple"]):
        done = niwfctl("-C", committed.path, "diff", *targets)
        assert done.exit_code == 2 and "`niwfctl diff HEAD~1 HEAD`" in done.stderr
    shown = niwfctl("-C", committed.path, "diff", "HEAD~1", "HEAD").stdout
    assert f"+ region {committed.capability('apple').regions[1].id}" in shown
