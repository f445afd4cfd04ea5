"""How many prompts a training holds out of few, and that a resumed one holds out the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from niwfctl.errors import TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.training.data import read_examples, split
from niwfctl.training.run import TrainingOptions

OPTIONS = TrainingOptions(steps=2, batch_size=4, rank=2)
FIVE_PERCENT = OPTIONS.model_copy(update={"val_split": 0.05})


def test_of_forty_prompts_eight_are_held_out_and_train_says_so(
    fresh: Repository, data: Path, niwfctl: Callable[..., Result]
) -> None:
    command = ("-C", fresh.path, "train", "apple", "--data", data, "--steps", 2, "--rank", 2)
    assert "2 steps, 32 rows, 8 held out" in niwfctl(*command).stdout
    run = fresh.trainings.get("apple")
    # an earlier version, which holds out the share that is recorded, would hold out the same
    assert len(split(read_examples(data), run.options.val_split, 0)[1]) == 8
    assert (
        "2 steps, 38 rows, 2 held out" in niwfctl(*command, "--restart", "--val-split", 0.05).stdout
    )


@pytest.mark.parametrize(("options", "held_out"), [(OPTIONS, 8), (FIVE_PERCENT, 2)])
def test_a_resumed_training_holds_out_what_it_began_with(
    fresh: Repository, data: Path, options: TrainingOptions, held_out: int
) -> None:
    """Earlier versions recorded a share of 5% where none was given."""
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", data, options, stop=lambda: True)
    assert fresh.train("apple", resume=True).held_out_rows == held_out
