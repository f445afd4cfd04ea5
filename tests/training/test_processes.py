"""Training by several processes, started as `accelerate launch` starts them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUICK

from niwfctl.backbone.load import chosen_device
from niwfctl.errors import TrainingInterrupted, UsageError
from niwfctl.repository import Repository
from niwfctl.training.checkpoint import load
from niwfctl.training.processes import Processes
from niwfctl.training.run import TrainingOptions


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


def command(repository: Repository, name: str, data: Path, options: TrainingOptions) -> list[str]:
    chosen = options.model_dump(exclude_unset=True)
    given = [f"--{key.replace('_', '-')}={value}" for key, value in chosen.items()]
    return ["-C", str(repository.path), "train", name, f"--data={data}", *given]


def test_two_processes_equal_one_that_accumulates_their_shares_bit_for_bit(
    fresh: Repository, data: Path
) -> None:
    halves = QUICK.model_copy(update={"batch_size": 2, "grad_accum": 2})
    fresh.train("alone", [data], halves)
    with started(2, *command(fresh, "apple", data, QUICK)) as pair:
        said, complained = pair.communicate(timeout=300)
    assert pair.returncode == 0, complained
    assert said.count("held-out perplexity") == 1
    together, tensors = load(fresh.trainings.checkpoint("apple"))
    single, expected = load(fresh.trainings.checkpoint("alone"))
    assert tensors.keys() == expected.keys()
    assert all(
        torch.equal(tensors[key].nan_to_num(), expected[key].nan_to_num()) for key in expected
    )
    assert together.perplexity == pytest.approx(single.perplexity)
    assert together.tokens == single.tokens
    fresh.commit(["apple"], "Trained by two")
    assert fresh.verify(deep=True).ok


def test_a_step_with_fewer_rows_than_processes_is_refused() -> None:
    processes = Processes()
    processes.count = 2
    with pytest.raises(UsageError, match="too few for"):
        processes.share([0])


def test_each_process_gets_a_gpu_of_its_own_and_one_for_all_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NIWFCTL_DEVICE", "cuda:1")
    assert chosen_device() == "cuda:1"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UsageError, match="NIWFCTL_DEVICE=cuda:1 would put every process"):
        Processes()
    for chosen, device in (("cuda", "cuda:1"), ("cpu", "cpu")):
        monkeypatch.setenv("NIWFCTL_DEVICE", chosen)
        assert chosen_device() == device


def test_an_interrupted_pair_saves_and_resumes(fresh: Repository, data: Path) -> None:
    long = QUICK.model_copy(update={"steps": 2000})
    with started(2, *command(fresh, "apple", data, long)) as pair:
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
