"""The example pipelines: their own steps, run in a clone as a pipeline would."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny import write_data

from niwfctl.repository import Repository
from niwfctl.repository.clone import clone

PIPELINES = sorted((Path(__file__).parents[2] / "examples" / "ci").iterdir())
pytestmark = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")


def pipeline(file: Path) -> tuple[list[str], str]:
    """The pipeline's own commands, and the folder it keeps from one run to the next.

    Installing is what the tests' environment has done already.
    """
    plain = yaml.safe_load(file.read_text())
    if "jobs" in plain:
        steps = plain["jobs"]["check"]["steps"]
        commands = [step["run"] for step in steps if "run" in step]
        (kept,) = (step["with"]["path"] for step in steps if "key" in step.get("with", {}))
    else:
        commands = plain["check"]["script"]
        (kept,) = plain["check"]["cache"]["paths"]
    return [command for command in commands if command.startswith("niwfctl ")], kept


@pytest.fixture
def publish(committed: Repository, tmp_path: Path) -> Callable[[float], Path]:
    """A function that pushes `committed` with a gate of some limit, and clones it."""

    def run(limit: float) -> Path:
        remote = tmp_path / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", remote], check=True)
        write_data(committed.path / "apple.jsonl", rows=4)
        with (committed.path / "niwf.toml").open("a") as config:
            config.write(f'[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = {limit}\n')
        committed.git.plain("add", "apple.jsonl", "niwf.toml")
        committed.git.plain("commit", "-m", "Gates")
        committed.git.plain("remote", "add", "origin", str(remote))
        committed.remotes.push("origin", [])
        clone(str(remote), tmp_path / "copy", lazy=True)
        return tmp_path / "copy"

    return run


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        command, shell=True, cwd=folder, env=env, check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize("limit", [1e6, 1.0])
@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_a_pipeline_passes_what_is_fit_to_ship_and_nothing_else(
    publish: Callable[[float], Path], file: Path, limit: float
) -> None:
    copy = publish(limit)
    (command,), _ = pipeline(file)
    assert run(command, copy).returncode == (0 if limit > 1 else 1)
    assert (copy / "report.xml").read_text().startswith("<?xml")


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_what_a_pipeline_keeps_spares_the_next_run_the_measuring(
    publish: Callable[[float], Path], tmp_path: Path, file: Path
) -> None:
    copy = publish(1e6)
    commands, kept = pipeline(file)
    first = [run(command, copy) for command in commands]
    assert "measuring" in first[-1].stderr
    clone(str(tmp_path / "remote.git"), tmp_path / "next")
    shutil.copytree(copy / kept, tmp_path / "next" / kept)
    second = [run(command, tmp_path / "next") for command in commands]
    assert second[-1].returncode == 0 and "measuring" not in second[-1].stderr
