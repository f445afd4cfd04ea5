"""The main job on a tiny backbone: train, commit, check out, run, prove."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import write_data
from typer.testing import Result

from niwfctl.errors import DataError, TrainingInterrupted, UsageError
from niwfctl.repository import Repository
from niwfctl.training.checkpoint import load, save
from niwfctl.training.run import TrainingOptions


def test_a_second_commit_leaves_the_first_capability_equal_bit_for_bit(
    committed: Repository, tmp_path: Path, data: Path
) -> None:
    model = committed.load("apple")
    examples = model.encode(_examples(data))
    before = model.score(_examples(data))
    plums = write_data(tmp_path / "plum.jsonl", word="plum")
    committed.train("plum", [plums], QUICK)
    committed.commit(["plum"], "Plums")
    again = Repository.open(committed.path)
    assert sorted(again.atlas()) == ["apple", "plum"]
    after = again.load("apple").score(_examples(data))
    assert after.perplexity == before.perplexity
    assert torch.equal(after.coordinates, before.coordinates)
    assert len(examples) == after.coordinates.shape[0]
    report = again.verify(deep=True)
    assert report.ok, report


def test_a_training_that_a_kill_left_behind_its_commit_is_no_training_any_more(
    trained: Repository, tmp_path: Path, data: Path
) -> None:
    left = shutil.copytree(trained.trainings.root / "apple", tmp_path / "apple")
    trained.commit(["apple"], "Apples")
    shutil.copytree(left, trained.trainings.root / "apple", dirs_exist_ok=True)
    assert not trained.uncommitted()
    extend = QUICK.model_copy(update={"mode": "extend", "steps": 1})
    assert trained.train("apple", [data], extend).finished
    trained.commit(["apple"], "More apples")


def test_training_lowers_the_perplexity_of_held_out_rows(trained: Repository) -> None:
    (run,) = trained.uncommitted()
    assert run.finished
    assert run.perplexity < run.base_perplexity


def test_the_learning_rate_that_was_chosen_is_on_record(fresh: Repository, data: Path) -> None:
    run = fresh.train("apple", [data], QUICK.model_copy(update={"steps": 1, "lr": None}))
    assert run.options.lr == 3e-3
    assert Repository.open(fresh.path).uncommitted()[0].options.lr == 3e-3


def test_an_interrupted_training_resumes_to_the_same_bits(
    fresh: Repository, trained: Repository, data: Path
) -> None:
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == 2

    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", [data], QUICK, stop=stop)
    fresh.train("apple", resume=True)
    _, resumed = load(fresh.trainings.checkpoint("apple"))
    _, straight = load(trained.trainings.checkpoint("apple"))
    assert resumed.keys() == straight.keys()
    for key, value in straight.items():
        assert torch.equal(resumed[key].nan_to_num(), value.nan_to_num()), key


def test_an_interrupted_training_can_be_ended_at_the_step_it_has_reached(
    fresh: Repository, data: Path
) -> None:
    reached: list[int] = []

    def stop() -> bool:
        return bool(reached and reached[-1])

    with pytest.raises(TrainingInterrupted, match="--finish"):
        report = lambda progress: reached.append(progress.step)  # noqa: E731
        fresh.train("apple", [data], QUICK, report=report, stop=stop)
    with pytest.raises(UsageError, match=r"stopped at step 1 of 3.*--finish"):
        fresh.commit(["apple"], "Apples")
    run = fresh.train("apple", finish=True)
    assert (run.step, run.steps, run.finished) == (1, 1, True)
    assert [glance.step for glance in run.glances] == [0, 1]
    fresh.commit(["apple"], "Apples")
    assert fresh.verify(deep=True).ok
    assert fresh.atlas()["apple"].regions[0].run.steps == 1


def test_a_training_without_a_step_cannot_be_ended(fresh: Repository, data: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", [data], QUICK, stop=lambda: True)
    with pytest.raises(UsageError, match="before its first step: resume it"):
        fresh.train("apple", finish=True)
    assert fresh.train("apple", resume=True).finished


def test_a_training_that_goes_on_with_smaller_batches_ends_where_it_would_have(
    fresh: Repository, trained: Repository, data: Path, niwfctl: Callable[..., Result]
) -> None:
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", [data], QUICK, stop=lambda: True)
    resume = ["-C", fresh.path, "train", "apple", "--resume"]
    refused = niwfctl(*resume, "--batch-size", 2)
    assert refused.exit_code == 2 and "give two numbers whose product is 4" in refused.stderr
    sparing = ["--batch-size", 2, "--grad-accum", 2, "--gradient-checkpointing"]
    done = niwfctl(*resume, *sparing, "--json")
    options = json.loads(done.stdout)["options"]
    assert (options["batch_size"], options["grad_accum"]) == (2, 2)
    assert options["gradient_checkpointing"] and options["rank"] == QUICK.rank
    resumed, tensors = load(fresh.trainings.checkpoint("apple"))
    straight, expected = load(trained.trainings.checkpoint("apple"))
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():  # the backbone computes in bf16
        torch.testing.assert_close(tensors[key], value, rtol=0.02, atol=0.02, equal_nan=True)
    assert resumed.perplexity == pytest.approx(straight.perplexity, rel=1e-3)
    assert (resumed.steps, resumed.tokens) == (straight.steps, straight.tokens)
    fresh.commit(["apple"], "Apples")
    assert fresh.capability("apple").regions[0].run.options == resumed.options
    assert fresh.verify(deep=True).ok


def test_layers_that_are_computed_again_may_be_asked_for_later_and_change_no_bit(
    fresh: Repository, trained: Repository, data: Path
) -> None:
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", [data], QUICK, stop=lambda: True)
    fresh.train("apple", options=TrainingOptions(gradient_checkpointing=True), resume=True)
    _, resumed = load(fresh.trainings.checkpoint("apple"))
    _, straight = load(trained.trainings.checkpoint("apple"))
    for key, value in straight.items():
        assert torch.equal(resumed[key].nan_to_num(), value.nan_to_num()), key


def test_a_training_goes_on_only_with_the_rows_that_it_began_with(
    fresh: Repository, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "apple.jsonl")
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", [data], QUICK, stop=lambda: True)
    file = fresh.trainings.checkpoint("apple")
    run, tensors = load(file)
    save(file, run.model_copy(update={"rows": run.rows - 1}), tensors)
    with pytest.raises(DataError, match="'apple' was begun by a version that held out other rows"):
        fresh.train("apple", resume=True)
    save(file, run, tensors)
    lines = data.read_text()
    data.write_text(lines + lines)
    with pytest.raises(DataError, match="'apple' has changed since its training began"):
        fresh.train("apple", resume=True)
    data.write_text(lines)
    assert fresh.train("apple", resume=True).finished


def _examples(data: Path):
    from niwfctl.training.data import read_examples

    return read_examples([str(data)])
