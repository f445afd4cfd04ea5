"""A training that was asked to keeps the step that measured best, rather than the last."""

import json
import string
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from typer.testing import Result

from niwfctl.errors import TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.repository.train import warn_of_overfitting
from niwfctl.training.checkpoint import load
from niwfctl.training.loop import Progress

TOO_FAST = QUICK.model_copy(update={"steps": 12, "lr": 3.0, "warmup": 0.0, "eval_steps": 1})
BEST = TOO_FAST.model_copy(update={"keep_best": True})


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Answers that the prompts do not tell."""
    path = tmp_path / "letters.jsonl"
    rows = ({"prompt": f"q{i}", "completion": string.ascii_letters[i] * 6} for i in range(20))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_the_best_step_is_kept_where_it_was_asked_for(
    fresh: Repository, letters: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = fresh.train("plum", [letters], TOO_FAST)
    assert last.best_step is None and "--keep-best" in caplog.text
    caplog.clear()
    run = fresh.train("apple", [letters], BEST)
    assert run.glances == last.glances and len(run.glances) == 13
    best = min(run.glances[1:], key=lambda glance: glance.validation)
    assert run.best_step == best.step < run.steps
    assert run.perplexity == best.validation < last.perplexity  # all held-out rows are glanced at
    assert "has risen" not in caplog.text


def test_what_was_asked_for_is_not_advised(
    fresh: Repository, letters: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = fresh.train("apple", [letters], BEST)
    warn_of_overfitting(run.model_copy(update={"base_perplexity": run.perplexity / 2}))
    assert "worse than the base's" in caplog.text and "keep-best" not in caplog.text


@pytest.mark.parametrize("stage", ["training", "measuring"])
def test_an_interrupted_training_keeps_the_same_step(
    fresh: Repository, letters: Path, stage: str
) -> None:
    straight = fresh.train("plum", [letters], BEST)
    told: list[Progress] = []

    def stop() -> bool:
        return told[-1].stage == stage and told[-1].step > straight.best_step

    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", [letters], BEST, report=told.append, stop=stop)
    run = fresh.train("apple", resume=True)
    assert (run.best_step, run.perplexity) == (straight.best_step, straight.perplexity)
    kept, expected = (load(fresh.trainings.checkpoint(name))[1] for name in ("apple", "plum"))
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[key], expected[key]) for key in kept)


def test_options_that_were_not_used_are_not_recorded_so_earlier_versions_read_the_manifest(
    committed: Repository,
) -> None:
    run = json.loads(committed.capability("apple").dump())["regions"][0]["run"]
    assert not {"eval_steps", "keep_best"} & run["options"].keys() and "best_step" not in run


def test_show_tells_which_step_was_kept(
    niwfctl: Callable[..., Result], committed: Repository, letters: Path
) -> None:
    run = committed.train("letters", [letters], BEST)
    committed.commit(["letters"], "Letters")
    shown = niwfctl("-C", committed.path, "show", "letters").stdout
    assert f"12 steps of 4 rows, step {run.best_step} kept" in shown
    told = json.loads(niwfctl("-C", committed.path, "show", "letters", "--json").stdout)
    training = told["regions"][0]["training"]
    assert training["best_step"] == run.best_step and training["options"]["keep_best"] is True
