"""Training by several processes, started as `accelerate launch` starts them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from torch import Tensor

from niwfctl.errors import TrainingInterrupted, UsageError
from niwfctl.repository import Repository
from niwfctl.training.checkpoint import load
from niwfctl.training.processes import Processes

# Of the weights' norm. Rows of other lengths share a pass, and bf16 rounds otherwise: as far apart
# as a single process's runs with --grad-accum 1 and 2 (0.003). Half of each step's rows: 0.13.
TOLERANCE = 2e-2


def started(processes: int, *arguments: str) -> subprocess.Popen[str]:
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    settings = ["--num_machines", "1", "--mixed_precision", "no", "--main_process_port", "0"]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *settings, "-m", "niwfctl", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Between the bases of two checkpoints, relative to the norm of the second's."""
    keys = [key for key in other if key.startswith("bases.")]
    flat = torch.cat([other[key].flatten() for key in keys])
    difference = torch.cat([one[key].flatten() for key in keys]) - flat
    return float(difference.norm() / flat.norm())


def test_two_processes_train_what_one_does(
    fresh: Repository, trained: Repository, data: Path
) -> None:
    chosen = QUICK.model_dump(exclude_unset=True)
    options = [f"--{key.replace('_', '-')}={value}" for key, value in chosen.items()]
    with started(2, "-C", str(fresh.path), "train", "apple", f"--data={data}", *options) as pair:
        said, complained = pair.communicate(timeout=300)
    assert pair.returncode == 0, complained
    assert said.count("held-out perplexity") == 1
    (run,) = fresh.uncommitted()
    (alone,) = trained.uncommitted()
    assert run.perplexity == pytest.approx(alone.perplexity, rel=1e-3)
    assert run.tokens == alone.tokens
    _, together = load(fresh.trainings.checkpoint("apple"))
    _, single = load(trained.trainings.checkpoint("apple"))
    assert together.keys() == single.keys()
    assert distance(together, single) <= TOLERANCE
    assert torch.equal(together["coordinates"].isnan(), single["coordinates"].isnan())
    fresh.commit(["apple"], "Trained by two")
    assert fresh.verify(deep=True).ok


def test_a_step_with_fewer_rows_than_processes_is_refused() -> None:
    processes = Processes()
    processes.count = 2
    with pytest.raises(UsageError, match="cannot share"):
        processes.share([0])


def test_an_interrupted_pair_saves_and_resumes(fresh: Repository, data: Path) -> None:
    options = ["--steps=2000", "--rank=2", "--batch-size=4"]
    with started(2, "-C", str(fresh.path), "train", "apple", f"--data={data}", *options) as pair:
        while "training step" not in pair.stderr.readline():
            assert pair.poll() is None
        os.killpg(pair.pid, signal.SIGINT)  # as Ctrl-C does
        pair.communicate(timeout=120)
    (run,) = fresh.uncommitted()
    assert 0 < run.step < run.steps
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", resume=True, stop=lambda: True)
    (later,) = fresh.uncommitted()
    assert later.step == run.step + 1
