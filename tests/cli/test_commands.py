"""Every command, as its user types it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from tiny import write_data
from typer.testing import Result

from niwfctl.repository import Repository

Command = Callable[..., Result]
NIWFCTL = str(Path(sys.executable).with_name("niwfctl"))
TRAINING = {
    "name", "finished", "step", "steps", "loss", "base_perplexity", "perplexity", "seconds",
    "tokens", "sources", "data_hash", "rows", "held_out_rows", "skipped_rows", "options",
}  # fmt: skip
COMMANDS = [
    "init", "train", "commit", "checkout", "status", "log", "show", "diff", "run", "eval",
    "branch", "tag", "merge", "rollback", "rm", "mv", "undo", "remote", "push", "fetch", "pull",
    "clone", "export", "verify", "check", "fsck", "gc", "doctor",
]  # fmt: skip


def report(result: Result) -> dict | list:
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def add_plum(repository: Repository, folder: Path) -> None:
    repository.train("plum", [write_data(folder / "plum.jsonl", word="plum")], QUICK)
    repository.commit(["plum"], "Plums")


def test_init_joins_a_git_repository_and_keeps_its_files(
    niwfctl: Command, backbone: Path, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "mine.txt").write_text("mine")
    subprocess.run(["git", "-C", tmp_path, "add", "mine.txt"], check=True)
    subprocess.run(["git", "-C", tmp_path, "commit", "-qm", "Mine"], check=True)
    done = report(niwfctl("init", tmp_path, "--model", backbone, "--dim", 8, "--json"))
    assert set(done) == {"path", "commit", "model", "identity", "quant", "tap_layer", "dim"}
    listed = subprocess.check_output(["git", "-C", tmp_path, "ls-tree", "--name-only", "HEAD"])
    assert {"mine.txt", "niwf.toml", ".gitattributes"} <= set(listed.decode().split())
    assert not subprocess.check_output(["git", "-C", tmp_path, "status", "--porcelain"])


def test_train_commit_and_show_tell_the_same_story(
    niwfctl: Command, fresh: Repository, data: Path
) -> None:
    options = ("--steps", 2, "--rank", 2, "--val-split", 0.2, "--batch-size", 4)
    trained = report(niwfctl("-C", fresh.path, "train", "a", "--data", data, *options, "--json"))
    assert set(trained) == TRAINING and trained["finished"]
    status = report(niwfctl("-C", fresh.path, "status", "--json"))
    assert set(status) == {"branch", "commit", "active", "capabilities", "uncommitted", "changes"}
    assert [one["name"] for one in status["uncommitted"]] == ["a"]
    done = report(niwfctl("-C", fresh.path, "commit", "a", "-m", "First", "--json"))
    assert set(done) == {"commit", "branch", "capabilities"}
    shown = report(niwfctl("-C", fresh.path, "show", "a", "--json"))
    assert shown == done["capabilities"][0]
    assert set(shown) == {"name", "bytes", "regions"}
    assert shown["regions"][0]["training"]["perplexity"] == trained["perplexity"]
    assert shown["regions"][0]["training"]["sources"] == [data.name]
    log = report(niwfctl("-C", fresh.path, "log", "--json"))
    assert log[0]["commit"] == done["commit"]
    assert log[0]["changes"] == [{"kind": "added", "capability": shown}]
    status = report(niwfctl("-C", fresh.path, "status", "--json"))
    assert status["capabilities"] == ["a"] and not status["uncommitted"] and not status["changes"]


def test_ctrl_c_saves_and_resume_finishes(fresh: Repository, data: Path) -> None:
    command = [NIWFCTL, "-C", str(fresh.path), "train", "a"]
    options = ["--data", str(data), "--steps", "4000", "--rank", "2", "--val-split", "0.2"]
    training = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    for line in training.stderr:
        if "training step" in line:
            break
    training.send_signal(signal.SIGINT)
    _, said = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "--resume" in said.splitlines()[-1]
    run = fresh.trainings.get("a")
    assert 0 < run.step < 4000
    again = subprocess.Popen([*command, "--resume"], stderr=subprocess.PIPE, text=True)
    for line in again.stderr:
        if match := re.search(r"step (\d+)/4000", line):
            assert int(match[1]) > run.step
            break
    again.kill()
    again.communicate()


def test_commit_without_names_takes_every_finished_training(
    niwfctl: Command, trained: Repository, tmp_path: Path
) -> None:
    trained.train("plum", [write_data(tmp_path / "plum.jsonl", word="plum")], QUICK)
    done = report(niwfctl("-C", trained.path, "commit", "-m", "Both", "--json"))
    assert [one["name"] for one in done["capabilities"]] == ["apple", "plum"]


def test_checkout_of_capabilities_and_revisions(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    first = committed.git.head()
    add_plum(committed, tmp_path)

    def checkout(*target: str) -> str:
        result = niwfctl("-C", committed.path, "checkout", *target)
        assert result.exit_code == 0, result.output
        return Repository.open(committed.path).active

    assert checkout("apple") == "apple"
    assert checkout(f"apple@{first[:10]}") == f"apple@{first}"
    assert checkout("--base") is None
    committed.git.plain("branch", "side", first)
    committed.git.plain("tag", "v1", first)
    for target in ("side", "v1", first[:10]):
        checkout(target)
        assert sorted(Repository.open(committed.path).atlas()) == ["apple"]


def test_a_name_of_both_a_capability_and_a_branch_is_refused_with_both_ways(
    niwfctl: Command, committed: Repository
) -> None:
    committed.git.plain("branch", "apple")
    result = niwfctl("-C", committed.path, "checkout", "apple")
    assert result.exit_code == 2
    assert "apple@HEAD" in result.stderr and "refs/heads/apple" in result.stderr
    for way in ("apple@HEAD", "refs/heads/apple"):
        assert niwfctl("-C", committed.path, "checkout", way).exit_code == 0
    assert committed.git.branch() == "apple"


def test_run_answers_from_argument_or_input_with_what_is_active(
    niwfctl: Command, committed: Repository
) -> None:
    def run(*arguments: str, **options: object) -> Result:
        result = niwfctl("-C", committed.path, "run", *arguments, "--max-new-tokens", 8, **options)
        assert result.exit_code == 0, result.output
        return result

    base = run("Say apple 3.", "--base").stdout
    given = run("Say apple 3.", "--capability", "apple").stdout
    assert given != base
    committed.checkout("apple")
    assert run("Say apple 3.").stdout == given
    assert run("-", input="Say apple 3.").stdout == given
    assert run(input="Say apple 3.").stdout == given
    assert run("Say apple 3.", "--stream").stdout.strip() == given.strip()
    assert run("Say apple 3.", "--capability", "apple@HEAD").stdout == given
    described = json.loads(run("Say apple 3.", "--json").stdout)
    assert set(described) == {"capability", "prompt", "answer"}
    assert described["answer"] == given.strip()


def test_eval_measures_the_base_and_capabilities(
    niwfctl: Command, committed: Repository, data: Path
) -> None:
    options = ("--data", data, "--exact-match", "--max-new-tokens", 4, "--json")
    done = report(niwfctl("-C", committed.path, "eval", "apple", *options))
    assert set(done) == {"data_hash", "rows", "results"}
    base, apple = done["results"]
    assert (base["capability"], apple["capability"]) == (None, "apple")
    assert apple["perplexity"] < base["perplexity"]
    assert set(apple) == {"capability", "perplexity", "tokens", "exact_match"}
    alone = report(niwfctl("-C", committed.path, "eval", "--data", data, "--json"))
    assert [row["capability"] for row in alone["results"]] == [None]


def test_log_is_limited_short_or_drawn(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    add_plum(committed, tmp_path)
    assert len(report(niwfctl("-C", committed.path, "log", "-n", 1, "--json"))) == 1
    short = niwfctl("-C", committed.path, "log", "--oneline").stdout.splitlines()
    assert [line.split(" ", 1)[1] for line in short[:2]] == ["Plums", "Apples"]
    assert "+ plum" in niwfctl("-C", committed.path, "log").stdout
    assert "* " in niwfctl("-C", committed.path, "log", "--graph").stdout


def test_show_of_a_commit_says_what_it_added(niwfctl: Command, committed: Repository) -> None:
    shown = report(niwfctl("-C", committed.path, "show", "HEAD", "--json"))
    assert set(shown) == {"commit", "author", "email", "date", "refs", "message", "changes"}
    text = niwfctl("-C", committed.path, "show").stdout
    assert "capability apple" in text and "anchors" in text


def test_diff_of_revisions_and_of_capabilities(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    add_plum(committed, tmp_path)
    (change,) = report(niwfctl("-C", committed.path, "diff", "--json"))
    assert set(change) == {"kind", "name", "before", "after"} and change["kind"] == "added"
    assert niwfctl("-C", committed.path, "diff", "--exit-code").exit_code == 1
    assert niwfctl("-C", committed.path, "diff", "HEAD", "HEAD", "--exit-code").exit_code == 0
    plot = tmp_path / "map.svg"
    compared = report(
        niwfctl("-C", committed.path, "diff", "apple", "plum", "--json", "--plot", plot)
    )
    assert set(compared) == {"a", "b", "bases", "place", "sites"}
    assert plot.read_text().startswith("<?xml")
    assert "q_proj" in niwfctl("-C", committed.path, "diff", "apple", "plum").stdout


def test_verify_reports_every_check(niwfctl: Command, committed: Repository) -> None:
    done = report(niwfctl("-C", committed.path, "verify", "--deep", "--json"))
    assert set(done) == {"ok", "revision", "checks"} and done["ok"]
    found = [(check["subject"], check["check"]) for check in done["checks"]]
    assert found == [
        ("backbone", "identity"),
        ("coordinates", "objects"),
        ("apple", "objects"),
        ("apple", "anchors"),
        ("backbone", "logits"),
        ("apple", "logits"),
    ]


def test_a_snapshot_that_is_not_the_generators_is_found(
    niwfctl: Command, committed: Repository
) -> None:
    from niwfctl.repository.record import record
    from niwfctl.tensors import as_bytes, read_tensors

    capability = committed.capability("apple")
    entry = capability.regions[0]
    tensors = read_tensors(committed.object_path(entry.region.oid))
    tensors["snapshot"] = tensors["snapshot"].clone()
    tensors["snapshot"][7, 1] += 1e-3
    pointer = committed.store.put_tensors(as_bytes(tensors))
    region = entry.region.model_copy(update={"oid": pointer.oid, "size": pointer.size})
    forged = capability.model_copy(
        update={"regions": (entry.model_copy(update={"region": region}),)}
    )
    record(committed, lambda atlas: atlas | {"apple": forged}, "Forge")
    result = niwfctl("-C", committed.path, "verify")
    assert result.exit_code == 1
    assert f"anchor 7 in layer {entry.layers[1]}" in result.stdout


def test_doctor_and_version(niwfctl: Command) -> None:
    findings = report(niwfctl("doctor", "--json"))
    assert {"torch", "git", "git-lfs", "smollm2", "cuda"} <= {one["name"] for one in findings}
    assert niwfctl("--version").stdout.startswith("niwfctl ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_argument_and_option(niwfctl: Command, command: str) -> None:
    result = niwfctl(command, "--help", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if re.match(r"│ (\* +)?-{0,2}\w", line)]
    assert lines
    for line in lines:
        assert re.search(r"\s{2,}\S.*[a-z.\])]\s*│$", line), line


def test_help_lists_the_commands_in_the_order_of_their_work(niwfctl: Command) -> None:
    text = niwfctl("--help").stdout
    found = [command for command in re.findall(r"^│ (\w+) ", text, re.M) if command in COMMANDS]
    assert found == COMMANDS


def test_shell_completion_is_offered() -> None:
    done = subprocess.run(
        [NIWFCTL, "--show-completion", "bash"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SHELL": "/bin/bash"},
    )
    assert "niwfctl" in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["status"], ["log"], ["show", "apple"], ["diff"]])
def test_commands_without_a_model_never_import_torch(
    committed: Repository, command: list[str]
) -> None:
    program = (
        "import sys\nfrom niwfctl.cli.main import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program, "-C", committed.path, *command],
        check=True,
        stdout=subprocess.DEVNULL,
    )
