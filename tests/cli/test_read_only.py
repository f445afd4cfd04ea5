"""A read-only or full disk: what only reads works, what writes is refused in one sentence."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import write_data

from niwfctl.repository import Repository

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd / && exec "$@"'
# $0 is an empty folder, $1 what it is to hold; the rest is run.
FULL = (
    'mount -t tmpfs -o size=40m tmpfs "$0" && cp -a "$1"/. "$0" && shift && '
    '{ cat /dev/zero > "$0/filler"; true; } 2>/dev/null && cd / && exec "$@"'
)
PROGRAM = """
import json, sys, traceback
from typer.testing import CliRunner
from niwfctl.cli.main import app
for command in json.loads(sys.argv[2]):
    result = CliRunner().invoke(app, ["-C", sys.argv[1], *command])
    if result.exception and not isinstance(result.exception, SystemExit):
        traceback.print_exception(result.exception)
    print(json.dumps([result.exit_code, result.stdout, result.stderr]), flush=True)
"""


def mounted(how: str, path: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Runs a command where `path` is mounted in some way, for it alone."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", how, path]
    return subprocess.run(
        [str(part) for part in (*unshare, *command)], capture_output=True, text=True, check=False
    )


def run_each(
    path: Path, commands: Sequence[Sequence[str]], how: str = READ_ONLY, *content: Path
) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each command of niwfctl, in one process."""
    program = (sys.executable, "-c", PROGRAM, path, json.dumps(commands))
    done = mounted(how, path, *content, *program)
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(autouse=True)
def _can_mount(tmp_path: Path) -> None:
    if not shutil.which("unshare") or mounted(READ_ONLY, tmp_path, "true").returncode:
        pytest.skip("needs a mount of its own: unshare --user --mount is not allowed here")


def test_what_only_reads_works(committed: Repository, data: Path) -> None:
    commands = [
        ["status"],
        ["log"],
        ["show", "apple"],
        ["show", "HEAD"],
        ["diff"],
        ["diff", "apple", "apple"],
        ["verify"],
        ["fsck"],
        ["undo", "--list"],
        ["remote"],
        ["branch"],
        ["run", "hello", "--capability", "apple", "--max-new-tokens", "1"],
        ["eval", "apple", "--data", str(data)],
        ["eval", "--matrix", "--data", f"apple={data}"],
        ["check"],
        ["rollback", "--to", "HEAD~1", "--dry-run"],
    ]
    for command, (code, _, errors) in zip(
        commands, run_each(committed.path, commands), strict=True
    ):
        assert code == 0, (command, errors)


def test_what_writes_is_refused_in_one_sentence(
    trained: Repository, data: Path, tmp_path: Path
) -> None:
    trained.commit(["apple"], "Apples")
    trained.train("plum", [data], trained.capability("apple").regions[0].run.options)
    trained.git.plain("branch", "side", "HEAD~1")
    commands = [
        ["train", "pear", "--data", str(data), "--steps", "1", "--rank", "2"],
        ["commit", "-m", "x"],
        ["checkout", "apple"],
        ["checkout", "side"],
        ["rm", "apple"],
        ["mv", "apple", "pear"],
        ["rollback", "--to", "HEAD~1"],
        ["merge", "side"],
        ["undo"],
        ["gc"],
        ["branch", "new"],
        ["tag", "new"],
        ["remote", "add", "origin", str(tmp_path)],
        ["export", "apple", "out"],
        ["bundle", "create", "file"],
        ["init", "new", "--model", str(trained.config.backbone.model), "--dim", "8"],
    ]
    for command, (code, output, errors) in zip(
        commands, run_each(trained.path, commands), strict=True
    ):
        message = errors.splitlines()[-1]
        assert (code, output) == (12, ""), (command, code, output, errors)
        assert message.startswith("niwfctl: ") and "cannot be written" in message


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")
def test_a_full_disk_is_told_whoever_meets_it(committed: Repository, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", remote], check=True)
    committed.git.plain("remote", "add", "origin", str(remote))
    committed.git.plain("branch", "-M", "main")
    committed.remotes.push("origin", [])
    for oid in list(committed.store):
        committed.store.remove(oid)
    full = tmp_path / "full"
    full.mkdir()
    commands = [
        ["tag", "new"],
        ["tag", "-m", "x", "noted"],
        ["branch", "new"],
        ["remote", "add", "other", str(tmp_path)],
        ["verify", "apple"],
        ["fetch"],
        ["clone", str(remote), "copy"],
        ["rm", "apple"],
    ]
    answers = run_each(full, commands, FULL, committed.path)
    for command, (code, _, errors) in zip(commands, answers, strict=True):
        assert (code, errors.count("the disk is full")) == (12, 1), (command, code, errors)


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")
def test_check_reports_what_it_could_not_fetch_to_a_read_only_disk(
    committed: Repository, tmp_path: Path
) -> None:
    shutil.copy(write_data(tmp_path / "apple.jsonl", rows=4), committed.path)
    with (committed.path / "niwf.toml").open("a") as file:
        file.write('\n[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = 1e6\n')
    committed.git.plain("add", "apple.jsonl", "niwf.toml")
    committed.git.plain("commit", "--quiet", "-m", "Gates")
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "remote.git"], check=True)
    committed.git.plain("remote", "add", "origin", f"file://{tmp_path / 'remote.git'}")
    committed.remotes.push("origin", [])
    for oid in list(committed.store):
        committed.store.remove(oid)
    ((code, told, errors),) = run_each(committed.path, [["check", "--json"]])
    assert code == 12 and "cannot be written" in errors.splitlines()[-1]
    states = {one["subject"]: one["state"] for one in json.loads(told)["checks"]}
    assert states == {"commit": "not run", "apple": "not run"}
