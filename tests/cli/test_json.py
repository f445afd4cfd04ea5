"""What `--json` gives is, key by key and type by type, what docs/json.md says."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import write_data
from typer.main import get_command
from typer.testing import Result

from niwfctl.cli.main import app
from niwfctl.cli.output import READER_GONE
from niwfctl.errors import CODE_NAMES
from niwfctl.repository import Repository
from niwfctl.tensors import as_bytes

DOCS = (Path(__file__).parents[2] / "docs" / "json.md").read_text("utf-8")
EXIT_CODES = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text("utf-8")
GIVEN = {
    command: given
    for commands, given in re.findall(r"^- (`.*`): (\[?\w+\]?)", DOCS, re.M)
    for command in re.findall(r"`(.*?)`", commands)
}
KEYS = {
    kind: dict(re.findall(r"`(\w+)`\s+(\[?[a-z]+\]?\??)", re.sub(r"(?s)\(.*?\)", "", text)))
    for kind, text in re.findall(r"(?ms)^\*\*(.*?)\*\*(.*?)(?=\n\n|\Z)", DOCS)
}
PLAIN = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict}
SOMETIMES = {"exact_match", "names", "reasoning_content", "signature"}  # only where it is asked for

Ask = Callable[..., object]


def assert_documented(value: object, kind: str) -> None:
    if kind.endswith("?"):
        if value is not None:
            assert_documented(value, kind[:-1])
    elif kind.startswith("["):
        assert isinstance(value, list)
        for one in value:
            assert_documented(one, kind[1:-1])
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), (value, kind)
        assert isinstance(value, bool) == (kind == "boolean")
        assert kind != "number" or math.isfinite(value)
    else:
        documented = KEYS[kind]
        assert documented.keys() - SOMETIMES <= value.keys() <= documented.keys(), kind
        for key, one in value.items():
            assert_documented(one, documented[key])


def assert_lines_documented(file: Path, command: str) -> None:
    lines = file.read_text("utf-8").splitlines()
    assert lines
    for line in lines:
        assert_documented(json.loads(line), GIVEN[command])


@pytest.fixture
def ask(niwfctl: Callable[..., Result], committed: Repository) -> Ask:
    """Runs a command with `--json` in `committed`, and holds its answer against the docs."""

    def run(command: str, *arguments: object, documented: str | None = None) -> object:
        result = niwfctl("-C", committed.path, *command.split(), *arguments, "--json")
        assert result.exit_code in (0, 1), (result.output, result.exception)
        value = json.loads(result.stdout)
        assert_documented(value, GIVEN[documented or command])
        return value

    return run


def test_making(ask: Ask, backbone: Path, data: Path) -> None:
    ask("init", "new", "--model", backbone, "--dim", 8)
    ask("train", "plum", "--data", data, "--steps", 1, "--rank", 2)
    assert ask("status")["uncommitted"]
    ask("rm", "--training", "plum", documented="rm --training")
    ask("undo")
    assert ask("commit", "-m", "Plums")["capabilities"]


def test_looking(ask: Ask, committed: Repository, tmp_path: Path) -> None:
    committed.train("plum", [write_data(tmp_path / "plum.jsonl", word="plum")], QUICK)
    committed.commit(["plum"], "Plums")
    ask("compose", "apple", "plum", "--name", "both")
    ask("show", "both", documented="show NAME")
    ask("diff", "apple", "both", documented="diff NAME NAME")
    data = tmp_path / "plum.jsonl"
    ask("compose", "apple", "--sweep", "--data", f"apple={data}")
    assert any(commit["changes"] for commit in ask("log"))
    ask("show", "apple", documented="show NAME")
    assert ask("show", "HEAD", documented="show REV")["signature"]["state"] == "unsigned"
    assert ask("diff", "HEAD~2")
    assert ask("diff", "apple", "plum", documented="diff NAME NAME")["sites"]


def test_using(ask: Ask, committed: Repository, data: Path) -> None:
    ask("run", "hello", "--max-new-tokens", 1)
    options = ("--exact-match", "--max-new-tokens", 1)
    assert len(ask("eval", "apple", "--auto", "--data", data, *options)["results"]) == 3
    assert ask("route", "hello", documented="route PROMPT")["bids"]
    assert ask("route", "--data", data, documented="route --data")[0]["owners"]
    rows = ("--data", data, "--rows", committed.path / "rows.jsonl")
    assert ask("route", *rows, documented="route --data")
    assert_lines_documented(rows[-1], "route --rows")
    ask("eval", *rows[:2], *options, "--auto", "--predictions", rows[-1])
    assert_lines_documented(rows[-1], "eval --predictions")
    prompts = ("--prompt", "hello", "--data", data)
    assert ask("map", *prompts)["prompts"] and ask("map")["regions"]
    ask("export", "apple", "out")
    assert ask("export", "apple", "a.gguf", "--format", "gguf-lora", "--data", data)["freezing"]


def test_importing(ask: Ask, committed: Repository, data: Path) -> None:
    ask("export", "apple", "lora")
    imported = ask("import", "lora", "--name", "pear", "--data", data)
    assert imported["capability"]["regions"][0]["training"]["adapter"]["digest"]
    ask("show", "pear", documented="show NAME")


def test_measuring_history(ask: Ask, data: Path) -> None:
    options = ("--data", f"apple={data}", "--exact-match", "--max-new-tokens", 1)
    matrix = ask("eval --matrix", *options)
    assert matrix["commits"][0]["figures"] and matrix["transfer"]["exact_match"]
    assert "exact_match" not in ask("eval --matrix", *options[:2])["transfer"]


def test_rewriting(ask: Ask, committed: Repository) -> None:
    assert ask("mv", "apple", "pear").keys() == ask("rm", "pear").keys()
    assert ask("rollback", "--to", "HEAD~2", "--dry-run")["changes"]["added"] == ["apple"]
    assert ask("rollback", "--to", "HEAD~2")["commit"]
    assert ask("undo")["command"]
    assert len(ask("undo", "--list", documented="undo --list")) > 3
    ask("merge", "HEAD~1")
    assert {ref["name"] for ref in ask("branch", "side")} == {committed.git.branch(), "side"}
    ask("tag", "v1", "-m", "First")
    (tag,) = ask("tag")
    assert tag == {"name": "v1", "commit": committed.git.head(), "subject": "First"}
    assert ask("tag", "-d", "v1") == []


def test_examining(ask: Ask, committed: Repository) -> None:
    assert ask("verify", "--deep")["signature"]["state"] == "unsigned"
    ask("check")
    ask("doctor")
    assert not ask("fsck")["damage"]
    committed.store.put_tensors(as_bytes({"unreachable": torch.ones(3)}))
    assert ask("gc", "--keep", 0)["objects"]
    committed.store.path(committed.capability("apple").regions[0].region.oid).unlink()
    assert ask("fsck")["damage"]


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")
def test_sharing(ask: Ask, committed: Repository, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", remote], check=True)
    assert ask("remote", "add", "origin", remote) == [{"name": "origin", "url": str(remote)}]
    assert ask("push")["objects"]
    ask("pull")
    assert ask("clone", remote, tmp_path / "copy")["capabilities"] == ["apple"]
    assert ask("bundle create", tmp_path / "bundle")["capabilities"] == ["apple"]
    ask("bundle apply", tmp_path / "bundle")


def failure(result: Result) -> dict:
    """The error that a command gave, after holding it against the docs and the exit code."""
    value = json.loads(result.stdout)
    assert_documented(value, "failure")
    error = value["error"]
    assert error["code"] == result.exit_code
    assert f"| {error['code']} | {error['name']} |" in EXIT_CODES
    assert result.stderr.splitlines()[-1] == f"niwfctl: {error['message']}"
    return error


def test_an_error_is_given_in_place_of_the_answer(
    niwfctl: Callable[..., Result], committed: Repository, tmp_path: Path
) -> None:
    def told(*arguments: object) -> dict:
        return failure(niwfctl("-C", committed.path, *arguments, "--json"))

    assert told("show", "pear")["name"] == "unknown name"
    assert told("bundle", "apply", tmp_path / "nothing")["name"] == "usage"
    assert failure(niwfctl("-C", tmp_path, "status", "--json"))["name"] == "not a repository"
    without = niwfctl("-C", committed.path, "show", "pear")
    assert without.exit_code == 4 and not without.stdout
    assert not niwfctl("-C", committed.path, "run", "--", "--json", "x").stdout


def test_a_conflict_names_what_both_sides_changed(
    niwfctl: Callable[..., Result], committed: Repository, tmp_path: Path
) -> None:
    revise = QUICK.model_copy(update={"mode": "revise"})
    committed.branches.make("side")
    for branch, word in (("side", "x"), (committed.git.branch(), "y")):
        committed.checkout(branch)
        committed.train("apple", [write_data(tmp_path / f"{word}.jsonl", word=word)], revise)
        committed.commit(["apple"], "Revised")
    error = failure(niwfctl("-C", committed.path, "merge", "side", "--json"))
    assert (error["name"], error["names"]) == ("conflict", ["apple"])


def test_every_kind_of_error_has_the_name_that_the_docs_give_it() -> None:
    listed = re.findall(r"^\| (\d+) \| (\w[\w ]*) \|", EXIT_CODES, re.M)
    assert {(str(c), n) for c, n in CODE_NAMES.items()} == {
        (c, n) for c, n in listed if int(c) != READER_GONE
    }


def test_a_training_that_a_scheduler_ends_says_so_in_json(
    fresh: Repository, data: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    train = ("train", "apple", "--data", data, "--steps", "20000", "--log", log, "--json")
    command = [sys.executable, "-m", "niwfctl", "-C", fresh.path, *train]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE) as process:
        while not (log.is_file() and log.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        told = json.loads(process.communicate()[0])
    assert process.returncode == told["error"]["code"] == 143
    assert told["error"]["name"] == "terminated" and "--resume" in told["error"]["message"]


def test_the_docs_explain_every_command_and_every_kind() -> None:
    group = get_command(app)
    bundle = {
        f"bundle {name}": command for name, command in group.commands["bundle"].commands.items()
    }
    reporting = {
        name
        for name, command in {**group.commands, **bundle}.items()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert reporting == {re.sub(r" (NAME|REV|PROMPT|--\w+)", "", command) for command in GIVEN}
    used = {kind for keys in KEYS.values() for kind in keys.values()} | set(GIVEN.values())
    used |= {"failure"}  # of any command
    assert {kind.strip("[]?") for kind in used} - PLAIN.keys() == KEYS.keys()
