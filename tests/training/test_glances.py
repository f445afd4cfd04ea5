"""How a training goes on held-out rows is kept with it, and told if it ends badly."""

import json
import string
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from typer.testing import Result

from niwfctl.atlas import Capability
from niwfctl.errors import TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.repository.model import Model
from niwfctl.repository.runs import encoded, new_run
from niwfctl.repository.train import warn_of_overfitting
from niwfctl.training.checkpoint import load, save
from niwfctl.training.data import read_examples
from niwfctl.training.loop import Progress, Trainer
from niwfctl.training.optimizer import learning_rate
from niwfctl.training.run import Glance, Run

NINE = QUICK.model_copy(update={"steps": 9})


def course(*validations: float) -> tuple[Glance, ...]:
    return tuple(
        Glance(step=10 * index, loss=None, validation=validation)
        for index, validation in enumerate(validations)
    )


def trains(told: list[Progress]) -> bool:
    """Whether a step is done."""
    return told[-1].stage == "training"


def begin(repository: Repository, name: str, data: Path) -> None:
    """Trains for one step."""
    told: list[Progress] = []
    with pytest.raises(TrainingInterrupted):
        repository.train(name, [data], NINE, report=told.append, stop=partial(trains, told))


@pytest.fixture
def run(trained: Repository) -> Run:
    """The record of a training that ended well."""
    return trained.trainings.get("apple").model_copy(
        update={"glances": (), "base_perplexity": 40.0, "perplexity": 20.0, "steps": 40}
    )


def test_a_training_keeps_its_course_from_the_base_to_its_end(
    fresh: Repository, data: Path
) -> None:
    told: list[Progress] = []
    run = fresh.train("apple", [data], NINE, report=told.append)
    assert [glance.step for glance in run.glances] == [0, 2, 4, 6, 9]
    first, *_, last = (glance.validation for glance in run.glances)
    assert (first, last) == (run.base_perplexity, run.perplexity)  # all 8 held-out rows are read
    losses = {now.step: now.loss for now in told if now.stage == "training"}
    assert run.glances[0].loss is None
    for before, glance in pairwise(run.glances):
        since = [losses[step] for step in range(before.step + 1, glance.step + 1)]
        assert glance.loss == pytest.approx(sum(since) / len(since))
    assert {now.validation for now in told if now.stage == "training"} == {
        glance.validation for glance in run.glances[:-1]
    }


def test_the_course_of_an_interrupted_training_is_the_same(fresh: Repository, data: Path) -> None:
    straight = fresh.train("plum", [data], NINE)
    begin(fresh, "apple", data)
    for _ in range(4):
        told: list[Progress] = []
        with pytest.raises(TrainingInterrupted):
            fresh.train("apple", resume=True, report=told.append, stop=partial(trains, told))
    assert fresh.trainings.get("apple").step == 5
    assert fresh.train("apple", resume=True).glances == straight.glances


def test_glances_change_nothing_of_what_is_learned(fresh: Repository, data: Path) -> None:
    fresh.train("apple", [data], NINE)
    _, kept = load(fresh.trainings.checkpoint("apple"))
    model = Model(fresh)
    rows = encoded(model, read_examples([str(data)]), NINE)
    run = new_run(model, "apple", [], "", rows, NINE, steps=9)
    trainer = Trainer(model.adapter, model.skip, run, rows.training, rows.held_out)
    for step in range(9):
        run.step = step
        trainer.step()
    learned = [key for key in trainer.tensors() if key.startswith(("bases.", "generator."))]
    assert learned and all(torch.equal(trainer.tensors()[key], kept[key]) for key in learned)


def test_a_training_that_an_earlier_version_began_is_finished_without_its_first_glances(
    fresh: Repository, data: Path
) -> None:
    begin(fresh, "apple", data)
    path = fresh.trainings.checkpoint("apple")
    begun, tensors = load(path)
    del tensors["losses"]
    save(path, begun.model_copy(update={"glances": ()}), tensors)
    run = fresh.train("apple", resume=True)
    assert [glance.step for glance in run.glances] == [2, 4, 6, 9]
    assert all(glance.loss > 0 for glance in run.glances)


def test_show_prints_the_course_where_there_is_one(
    niwfctl: Callable[..., Result], committed: Repository
) -> None:
    shown = niwfctl("-C", committed.path, "show", "apple").stdout
    (line,) = (line for line in shown.splitlines() if "held-out" in line)
    assert line.count(" → ") == 3 and line.endswith("(step 0, 1, 2, 3; on 8 rows)")
    found = json.loads(niwfctl("-C", committed.path, "show", "apple", "--json").stdout)
    glances = found["regions"][0]["training"]["glances"]
    assert [glance["step"] for glance in glances] == [0, 1, 2, 3]


def test_a_manifest_of_an_earlier_version_has_no_course(committed: Repository) -> None:
    manifest = json.loads(committed.capability("apple").dump())
    del manifest["regions"][0]["run"]["glances"]
    older = Capability.parse(json.dumps(manifest).encode(), "apple.json")
    assert older.regions[0].run.glances == ()


def test_what_a_later_version_adds_to_a_record_is_passed_over(run: Run) -> None:
    later = json.loads(run.model_dump_json()) | {"added": 1}
    later["glances"] = [{"step": 0, "loss": None, "validation": 2.0, "added": 1}]
    assert Run.model_validate(later).glances == course(2.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"perplexity": 41.0}, "is 41, worse than the base's 40"),
        ({"glances": course(40, 30, 20, 21, 22)}, "at step 20 of 40 and has risen by 10.0%"),
        ({"glances": course(40, 41, 42)}, "was best at step 0 of 40"),
    ],
)
def test_a_result_that_ends_worse_than_it_was_is_told_with_what_to_do(
    run: Run, change: dict[str, object], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_overfitting(run.model_copy(update=change))
    (said,) = caplog.messages
    assert "held-out perplexity of 'apple'" in said and words in said
    assert all(way in said for way in ("--epochs", "--steps", "--lr", "more data"))


def test_what_few_held_out_rows_say_is_told_as_perhaps_chance(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_overfitting(run.model_copy(update={"perplexity": 41.0, "held_out_rows": 7}))
    (said,) = caplog.messages
    assert "worse than the base's 40: on so few rows (7) that may be chance" in said
    assert "--val-data" in said and "rather than commit it" not in said


@pytest.mark.parametrize("validations", [(), (40, 30, 20), (40, 20, 20.3)])
def test_a_result_that_is_about_as_good_as_ever_is_not_warned_of(
    run: Run, validations: tuple[float, ...], caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_overfitting(run.model_copy(update={"glances": course(*validations)}))
    assert not caplog.messages


def test_a_training_that_only_memorizes_is_warned_of(
    fresh: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers that the prompts do not tell, at a rate that is far too high."""
    data = tmp_path / "letters.jsonl"
    rows = ({"prompt": f"q{i}", "completion": string.ascii_letters[i] * 6} for i in range(20))
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = QUICK.model_copy(update={"steps": 12, "lr": 3.0, "warmup": 0.0})
    fresh.train("letters", [data], options)
    (said,) = caplog.messages
    assert "held-out perplexity of 'letters' was best at step 3 of 12" in said


def test_measuring_every_so_many_steps_is_for_the_user_to_say(
    fresh: Repository, data: Path
) -> None:
    run = fresh.train("apple", [data], NINE.model_copy(update={"eval_steps": 4}))
    assert [glance.step for glance in run.glances] == [0, 4, 8, 9]


def test_every_step_is_logged_where_it_was_asked_for(
    niwfctl: Callable[..., Result], fresh: Repository, data: Path, tmp_path: Path
) -> None:
    log, options = tmp_path / "steps.jsonl", ["--batch-size", "4", "--lr", "0.05", "--log"]
    train = ("-C", fresh.path, "train", "apple")
    niwfctl(*train, "--data", data, "--steps", "4", "--eval-steps", "2", *options, log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    run = fresh.trainings.get("apple")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["loss"] == run.loss
    assert [line["lr"] for line in lines] == [learning_rate(i, 4, 0.05, 0.05) for i in range(4)]
    first, middle, _ = (glance.validation for glance in run.glances)
    assert [line["validation"] for line in lines] == [first, middle, middle, middle]
    assert all(line["gradient_norm"] > 0 and line["tokens_per_second"] > 0 for line in lines)
    niwfctl(*train, "--restart", "--data", data, "--steps", "1", *options, log)
    assert len(log.read_text().splitlines()) == 5


def test_a_log_that_cannot_be_written_is_refused_before_anything_is_done(
    niwfctl: Callable[..., Result], fresh: Repository, data: Path, tmp_path: Path
) -> None:
    log = tmp_path / "closed"
    log.mkdir()
    refused = niwfctl("-C", fresh.path, "train", "apple", "--data", data, "--log", log)
    assert refused.exit_code == 2 and "closed is a folder: give a file" in refused.stderr
    assert fresh.trainings.get("apple") is None
