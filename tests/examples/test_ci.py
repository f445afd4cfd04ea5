"""The example pipelines: their own steps, run in a clone as a pipeline would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import write_data

from niwfctl.repository import Repository
from niwfctl.repository.remote import clone

PIPELINES = Path(__file__).parents[2] / "examples" / "ci"


def steps(file: Path) -> list[str]:
    """The pipeline's own commands; installing is what the tests' environment has done already."""
    plain = yaml.safe_load(file.read_text())
    if "jobs" in plain:
        commands = [step["run"] for step in plain["jobs"]["check"]["steps"] if "run" in step]
    else:
        commands = plain["check"]["script"]
    return [command for command in commands if command.startswith("niwfctl ")]


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")
@pytest.mark.parametrize("limit", [1e6, 1.0])
@pytest.mark.parametrize("file", sorted(PIPELINES.iterdir()), ids=lambda file: file.stem)
def test_a_pipeline_passes_what_is_fit_to_ship_and_nothing_else(
    committed: Repository, tmp_path: Path, file: Path, limit: float
) -> None:
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
    commands = steps(file)
    assert len(commands) == 2
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    codes = [
        subprocess.run(
            command, shell=True, cwd=tmp_path / "copy", env=os.environ | {"PATH": path}, check=False
        ).returncode
        for command in commands
    ]
    assert codes == [0, 0 if limit > 1 else 1]
    assert (tmp_path / "copy" / "report.xml").read_text().startswith("<?xml")
