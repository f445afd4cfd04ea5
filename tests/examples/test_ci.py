"""The example pipelines: their own steps, run in a clone as a pipeline would."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from faults import run_git
from tiny import write_data

from niwfctl.repository import Repository
from niwfctl.repository.clone import clone

PIPELINES = sorted((Path(__file__).parents[2] / "examples" / "ci").iterdir())
pytestmark = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")


def pipeline(file: Path) -> tuple[str, str]:
    """The pipeline's own script, and the folder it keeps from one run to the next.

    Installing is what the tests' environment has done already.
    """
    plain = yaml.safe_load(file.read_text())
    if "jobs" in plain:
        steps = plain["jobs"]["check"]["steps"]
        (script,) = (step["run"] for step in steps if "niwfctl check" in step.get("run", ""))
        (kept,) = (step["with"]["path"] for step in steps if "key" in step.get("with", {}))
    else:
        script = "\n".join(plain["check"]["script"])
        (kept,) = plain["check"]["cache"]["paths"]
    return script, kept


@pytest.fixture
def publish(committed: Repository, tmp_path: Path) -> Callable[[float], Path]:
    """A function that pushes `committed` with a gate of some limit, and clones it."""

    def run(limit: float) -> Path:
        remote = tmp_path / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", remote], check=True)
        write_data(committed.path / "apple.jsonl", rows=4)
        with (committed.path / "niwf.toml").open("a") as config:
            config.write(f'[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = {limit}\n')
            config.write("max_regression = 0.0\n")
        committed.git.plain("add", "apple.jsonl", "niwf.toml")
        committed.git.plain("commit", "-m", "Gates")
        committed.git.plain("remote", "add", "origin", str(remote))
        committed.remotes.push("origin", [])
        clone(str(remote), tmp_path / "copy", lazy=True)
        return tmp_path / "copy"

    return run


def run(
    script: str, folder: Path, before: str = "", branch: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a script as the pipeline of a push to main, which was at `before`, or of a branch."""
    main = run_git(folder, "symbolic-ref", "--short", "refs/remotes/origin/HEAD").split("/")[1]
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "BEFORE": "" if branch else before or run_git(folder, "rev-parse", "HEAD~1"),
        "MAIN": f"origin/{main}",
        "CI_DEFAULT_BRANCH": main,
        "CI_COMMIT_BRANCH": branch or main,
    }
    env["CI_COMMIT_BEFORE_SHA"] = env["BEFORE"]
    return subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=env,
        check=False,
        capture_output=True,
        text=True,
    )


def compared(folder: Path) -> str:
    """The revision that a pipeline's report says it compared with."""
    return re.search(r" at (\S+), at most", (folder / "report.xml").read_text())[1]


@pytest.mark.parametrize("limit", [1e6, 1.0])
@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_a_pipeline_passes_what_is_fit_to_ship_and_nothing_else(
    publish: Callable[[float], Path], file: Path, limit: float
) -> None:
    copy = publish(limit)
    script, _ = pipeline(file)
    assert run(script, copy).returncode == (0 if limit > 1 else 1)
    assert (copy / "report.xml").read_text().startswith("<?xml")


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_what_a_pipeline_keeps_spares_the_next_run_the_measuring(
    publish: Callable[[float], Path], tmp_path: Path, file: Path
) -> None:
    copy = publish(1e6)
    script, kept = pipeline(file)
    assert "measuring" in run(script, copy).stderr
    clone(str(tmp_path / "remote.git"), tmp_path / "next")
    shutil.copytree(copy / kept, tmp_path / "next" / kept)
    second = run(script, tmp_path / "next")
    assert second.returncode == 0 and "measuring" not in second.stderr


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_a_branch_is_compared_with_where_it_left_main(
    publish: Callable[[float], Path], committed: Repository, file: Path
) -> None:
    copy = publish(1e6)
    left = run_git(copy, "rev-parse", "HEAD")
    run_git(copy, "checkout", "-q", "-b", "side")
    run_git(copy, "commit", "-q", "--allow-empty", "-m", "On the branch")
    committed.git.plain("commit", "--allow-empty", "-m", "On main")
    committed.remotes.push("origin", [])
    run_git(copy, "fetch", "-q")
    done = run(pipeline(file)[0], copy, branch="side")
    assert done.returncode == 0, done.stderr
    assert compared(copy) == left


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_a_commit_that_is_no_longer_there_is_not_asked_for(
    publish: Callable[[float], Path], file: Path
) -> None:
    copy = publish(1e6)
    done = run(pipeline(file)[0], copy, "1" * 40)
    assert done.returncode == 0, done.stderr
    assert compared(copy) == "HEAD~1"


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_a_commit_that_was_forced_away_is_compared_with_while_the_host_has_it(
    publish: Callable[[float], Path], committed: Repository, file: Path
) -> None:
    copy = publish(1e6)
    committed.git.plain("commit", "--allow-empty", "-m", "Forced away")
    committed.git.plain("push", "--quiet", "origin", "HEAD:refs/heads/gone")
    committed.git.plain("push", "--quiet", "origin", ":refs/heads/gone")
    before = committed.git.resolve("HEAD")
    done = run(pipeline(file)[0], copy, before)
    assert done.returncode == 0, done.stderr
    assert compared(copy) == before


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_at_a_first_push_everything_is_new_or_what_the_parent_lacks(
    publish: Callable[[float], Path], file: Path
) -> None:
    copy = publish(1e6)
    done = run(pipeline(file)[0], copy, "0" * 40)
    assert done.returncode == 0, done.stderr
    if file.stem == "gitlab-ci":  # whose scheduled pipelines have no other id, either
        assert compared(copy) == "HEAD~1"
    else:
        assert "it is new since the branch began" in done.stdout
