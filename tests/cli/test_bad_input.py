"""Bad input: its exit code, one sentence, and nothing changed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import QUICK
from tiny import save_tiny, write_data
from typer.testing import Result

from niwfctl.errors import TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.repository import repository as repository_module
from niwfctl.repository.objects import manifest_file

Command = Callable[..., Result]


def state(repository: Repository) -> tuple:
    """All that a refused command must leave alone."""
    kept = [*repository.trainings.root.rglob("*"), *repository.store.root.rglob("*")]
    files = sorted((str(path), path.stat().st_size) for path in kept if path.is_file())
    return repository.git.head(), repository.git.plain("status", "--porcelain"), files


@contextmanager
def unchanged(repository: Repository) -> Iterator[None]:
    before = state(repository)
    yield
    assert state(repository) == before


def assert_refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("niwfctl: "), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in message


def test_outside_a_repository(niwfctl: Command, tmp_path: Path) -> None:
    assert_refused(niwfctl("-C", tmp_path, "status"), 3, str(tmp_path), "niwfctl init")


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "pear@HEAD"),
        ("checkout", "pear"),
        ("run", "hello", "--capability", "pear"),
        ("verify", "pear"),
        ("verify", "--rev", "nowhere"),
        ("log", "nowhere"),
        ("show", "apple@nowhere"),
        ("diff", "nowhere"),
        ("rm", "pear"),
        ("rollback", "apple", "--to", "nowhere"),
        ("commit", "pear", "-m", "x"),
    ],
)
def test_an_unknown_capability_or_revision(
    niwfctl: Command, committed: Repository, arguments: tuple[str, ...]
) -> None:
    with unchanged(committed):
        assert_refused(niwfctl("-C", committed.path, *arguments), 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["does not exist"]),
        ("", ["holds no records"]),
        ('{"prompt": "a", "completion": "b"}\n{oops', [":2", "JSON"]),
        ('{"question": "a", "reply": "b"}\n', ["question", "instruction", "prompt", "messages"]),
        ('{"prompt": "a", "completion": "' + "b" * 400 + '"}\n' * 1, ["--max-length", "256"]),
    ],
    ids=["missing", "empty", "not JSON", "wrong columns", "longer than --max-length"],
)
def test_data_that_cannot_be_used(
    niwfctl: Command, fresh: Repository, tmp_path: Path, content: str | None, words: list[str]
) -> None:
    file = tmp_path / "data.jsonl"
    if content is not None:
        rows = '{"prompt": "a", "completion": "b"}\n' * 3 if "bbb" in content else ""
        file.write_text(rows + content)
    with unchanged(fresh):
        result = niwfctl("-C", fresh.path, "train", "x", "--data", file, "--max-length", 256)
        assert_refused(result, 5, *words)


def test_all_answers_left_out(niwfctl: Command, fresh: Repository, data: Path) -> None:
    with unchanged(fresh):
        options = ("--max-length", 4, "--skip-long")
        result = niwfctl("-C", fresh.path, "train", "x", "--data", data, *options)
        assert_refused(result, 5, "no answer token is left", "--max-length 4")


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(
    niwfctl: Command, fresh: Repository, data: Path
) -> None:
    from niwfctl.repository.train import train
    from niwfctl.training.run import TrainingOptions

    options = TrainingOptions(steps=9, lr=1e30, rank=2, val_split=0.2, warmup=0.0)
    seen = []
    with pytest.raises(Exception, match="no longer a finite number"):
        train(fresh, "x", [str(data)], options, False, False, seen.append, lambda: False, 0.0)
    run = fresh.trainings.get("x")
    assert run is not None and 1 <= run.step < 9
    assert niwfctl("-C", fresh.path, "status").exit_code == 0
    result = niwfctl("-C", fresh.path, "train", "x", "--resume")
    assert_refused(result, 6, "--lr", "checkpoint is kept")


def test_a_backbone_that_is_not_the_pinned_one(
    niwfctl: Command, committed: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_tiny(tmp_path / "other", seed=1)
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(other))
    with unchanged(committed):
        assert_refused(niwfctl("-C", committed.path, "run", "hello"), 7, "pins", "NIWFCTL_BACKBONE")
        verified = niwfctl("-C", committed.path, "verify", "--json")
    assert verified.exit_code == 1
    failed = [check for check in json.loads(verified.stdout)["checks"] if not check["ok"]]
    assert [check["subject"] for check in failed] == ["backbone"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--tap-layer", "4"), 7),
        (("--tap-layer", "0"), 7),
        (("--dim", "65"), 2),
        (("--quant", "int3"), 2),
        (("--model", "/nowhere"), 7),
    ],
)
def test_init_options_out_of_range(
    niwfctl: Command, backbone: Path, tmp_path: Path, options: tuple[str, str], code: int
) -> None:
    where = tmp_path / "new"
    model = () if options[0] == "--model" else ("--model", backbone)
    assert_refused(niwfctl("init", where, *model, *options), code, options[1])
    assert not where.exists()


def test_a_second_init(niwfctl: Command, fresh: Repository) -> None:
    with unchanged(fresh):
        assert_refused(niwfctl("init", fresh.path), 2, "already")


@pytest.mark.parametrize(
    "options",
    [("--steps", 0), ("--val-split", 2), ("--rank", 0), ("--lr", -1), ("--batch-size", 0)],
)
def test_training_options_out_of_range(
    niwfctl: Command, fresh: Repository, data: Path, options: tuple[str, object]
) -> None:
    with unchanged(fresh):
        result = niwfctl("-C", fresh.path, "train", "x", "--data", data, *options)
        assert_refused(result, 2, options[0])


@pytest.mark.parametrize("name", ["../x", "", "a" * 300, "a/b", ".x", "x.lock", "x y"])
def test_a_name_git_could_not_hold(
    niwfctl: Command, fresh: Repository, data: Path, name: str
) -> None:
    with unchanged(fresh):
        result = niwfctl("-C", fresh.path, "train", "--data", data, "--", name)
        assert_refused(result, 2, "cannot name a capability")


def test_a_commit_of_nothing(niwfctl: Command, fresh: Repository) -> None:
    with unchanged(fresh):
        assert_refused(niwfctl("-C", fresh.path, "commit", "-m", "x"), 1, "nothing to commit")


def test_a_commit_of_an_unfinished_training(
    niwfctl: Command, fresh: Repository, data: Path
) -> None:
    with pytest.raises(TrainingInterrupted):
        fresh.train("x", [data], QUICK, stop=lambda: True)
    with unchanged(fresh):
        result = niwfctl("-C", fresh.path, "commit", "x", "-m", "x")
        assert_refused(result, 2, "step", "--resume")


def test_a_commit_without_a_message(niwfctl: Command, trained: Repository) -> None:
    with unchanged(trained):
        assert_refused(niwfctl("-C", trained.path, "commit"), 2, "-m")


def test_a_commit_when_git_does_not_know_who_commits(
    niwfctl: Command, trained: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    trained.git.plain("config", "user.useConfigOnly", "true")
    with unchanged(trained):
        result = niwfctl("-C", trained.path, "commit", "-m", "x")
        assert_refused(result, 10, "git config --global user.name")


HOLD = """
import sys, time
from pathlib import Path
from niwfctl.repository.lock import lock
with lock(Path(sys.argv[1]), "test"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Another process that holds a lock; yields its id."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def test_a_second_training_names_the_first(niwfctl: Command, fresh: Repository, data: Path) -> None:
    with unchanged(fresh), held(fresh.private / "training.lock") as process:
        result = niwfctl("-C", fresh.path, "train", "x", "--data", data)
        assert_refused(result, 9, f"process {process}")


def test_a_second_commit_names_the_first(
    niwfctl: Command, trained: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "COMMIT_PATIENCE", 0.1)
    with unchanged(trained), held(trained.private / "commit.lock") as process:
        result = niwfctl("-C", trained.path, "commit", "-m", "x")
        assert_refused(result, 9, f"process {process}")


def test_a_lock_does_not_outlive_its_process(niwfctl: Command, trained: Repository) -> None:
    with held(trained.private / "commit.lock"):
        pass
    assert niwfctl("-C", trained.path, "commit", "-m", "x").exit_code == 0


def an_object(repository: Repository) -> tuple[str, Path]:
    ref = repository.capability("apple").regions[0].bases[0]
    return ref.oid, repository.store.path(ref.oid)


def test_a_flipped_bit_is_named_and_refused(niwfctl: Command, committed: Repository) -> None:
    oid, path = an_object(committed)
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.chmod(0o644)
    path.write_bytes(damaged)
    result = niwfctl("-C", committed.path, "run", "hello", "--capability", "apple")
    assert_refused(result, 8, oid)
    verified = niwfctl("-C", committed.path, "verify")
    assert verified.exit_code == 1 and oid in verified.stdout


def test_a_missing_object_is_named_and_refused(niwfctl: Command, committed: Repository) -> None:
    oid, path = an_object(committed)
    path.unlink()
    result = niwfctl("-C", committed.path, "run", "hello", "--capability", "apple")
    assert_refused(result, 8, oid)
    verified = niwfctl("-C", committed.path, "verify")
    assert verified.exit_code == 1 and oid in verified.stdout


@pytest.mark.parametrize("file", ["niwf.toml", manifest_file("apple")])
def test_a_repository_of_a_newer_format(niwfctl: Command, committed: Repository, file: str) -> None:
    path = committed.path / file
    newer = path.read_text().replace("format = 1", "format = 2", 1)
    path.write_text(newer.replace('"format": 1', '"format": 2', 1))
    committed.git.plain("commit", "-am", "newer")
    assert_refused(niwfctl("-C", committed.path, "show", "apple"), 11, file, "upgrade")


def test_an_empty_prompt(niwfctl: Command, committed: Repository) -> None:
    assert_refused(niwfctl("-C", committed.path, "run", " "), 2, "empty")
    assert_refused(niwfctl("-C", committed.path, "run", "-", input=""), 2, "empty")


def test_base_and_capability_at_once(niwfctl: Command, committed: Repository) -> None:
    options = ("--base", "--capability", "apple")
    assert_refused(niwfctl("-C", committed.path, "run", "x", *options), 2, "exclude")


def test_training_a_committed_name(niwfctl: Command, committed: Repository, data: Path) -> None:
    with unchanged(committed):
        result = niwfctl("-C", committed.path, "train", "apple", "--data", data)
        assert_refused(result, 2, "committed")


def test_training_over_an_uncommitted_training(
    niwfctl: Command, trained: Repository, data: Path
) -> None:
    with unchanged(trained):
        result = niwfctl("-C", trained.path, "train", "apple", "--data", data)
        assert_refused(result, 2, "--restart")


def test_resuming_what_was_never_begun_or_with_other_options(
    niwfctl: Command, fresh: Repository, data: Path
) -> None:
    with unchanged(fresh):
        assert_refused(niwfctl("-C", fresh.path, "train", "x", "--resume"), 2, "--data")
        result = niwfctl("-C", fresh.path, "train", "x", "--resume", "--steps", 4)
        assert_refused(result, 2, "give no others")


def test_resuming_with_data_that_has_changed(
    niwfctl: Command, fresh: Repository, tmp_path: Path
) -> None:
    file = write_data(tmp_path / "plum.jsonl", word="plum")
    with pytest.raises(TrainingInterrupted):
        fresh.train("plum", [file], QUICK, stop=lambda: True)
    write_data(file, word="pear")
    with unchanged(fresh):
        assert_refused(niwfctl("-C", fresh.path, "train", "plum", "--resume"), 5, "no longer")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_repository_on_a_read_only_disk(niwfctl: Command, trained: Repository) -> None:
    shutil.copytree(trained.path, trained.path.with_name("copy"))
    trained.store.root.chmod(0o555)
    with unchanged(trained):
        assert niwfctl("-C", trained.path, "commit", "-m", "x").exit_code == 12
