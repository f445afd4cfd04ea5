"""A repository or a machine in a bad state: named, refused, and left as it is."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import Result

from niwfctl.errors import StorageError
from niwfctl.layout import manifest_file
from niwfctl.repository import Repository
from niwfctl.repository import repository as repository_module
from niwfctl.storage import storing
from niwfctl.training import checkpoint

Command = Callable[..., Result]
Refused = Callable[..., None]

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


def flip_a_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.chmod(0o644)
    path.write_bytes(damaged)


def failed_checks(niwfctl: Command, repository: Repository, code: int = 1) -> list[dict]:
    result = niwfctl("-C", repository.path, "verify", "--json")
    assert result.exit_code == code, result.output
    report = json.loads(result.stdout)
    assert not report["ok"]
    return [check for check in report["checks"] if not check["ok"]]


def test_a_second_training_names_the_first(refused: Refused, fresh: Repository, data: Path) -> None:
    with held(fresh.private / "training.lock") as process:
        refused(fresh, ["train", "x", "--data", data], 9, f"process {process}")


def test_a_second_commit_names_the_first(
    refused: Refused, trained: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "COMMIT_PATIENCE", 0.1)
    with held(trained.private / "commit.lock") as process:
        refused(trained, ["commit", "-m", "x"], 9, f"process {process}")


def test_a_lock_does_not_outlive_its_process(niwfctl: Command, trained: Repository) -> None:
    with held(trained.private / "commit.lock"):
        pass
    assert niwfctl("-C", trained.path, "commit", "-m", "x").exit_code == 0


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink], ids=["a flipped bit", "removed"])
@pytest.mark.parametrize("which", ["basis", "region", "coordinates"])
def test_a_damaged_object_is_named_and_never_used(
    niwfctl: Command,
    refused: Refused,
    committed: Repository,
    damage: Callable[[Path], None],
    which: str,
) -> None:
    (entry,) = committed.capability("apple").regions
    oid = {
        "basis": entry.bases[1].oid,
        "region": entry.region.oid,
        "coordinates": committed.config.field.coordinates,
    }[which]
    damage(committed.store.path(oid))
    result = niwfctl("-C", committed.path, "run", "hello", "--capability", "apple")
    assert result.exit_code == 8 and result.stderr.count("\n") == 1 and oid in result.stderr
    if which != "coordinates":
        refused(committed, ["export", "apple", "out"], 8, oid)
    (failed,) = failed_checks(niwfctl, committed, code=8)  # what was damaged is put aside by now
    assert failed["subject"] == ("coordinates" if which == "coordinates" else "apple")
    assert failed["check"] == "objects" and oid in failed["detail"]
    assert oid in niwfctl("-C", committed.path, "verify").stdout


def test_a_field_that_is_not_the_snapshots_is_found(
    niwfctl: Command, committed: Repository
) -> None:
    from niwfctl.repository.record import record
    from niwfctl.tensors import as_bytes, read_tensors

    capability = committed.capability("apple")
    (entry,) = capability.regions
    tensors = read_tensors(committed.object_path(entry.region.oid))
    tensors["snapshot"] = tensors["snapshot"].clone()
    tensors["snapshot"][7, 1] += 1e-3
    pointer = committed.store.put_tensors(as_bytes(tensors))
    region = entry.region.model_copy(update={"oid": pointer.oid, "size": pointer.size})
    entries = (entry.model_copy(update={"region": region}),)
    forged = capability.model_copy(update={"regions": entries})
    record(committed, lambda atlas: atlas | {"apple": forged}, "Forge")
    (failed,) = failed_checks(niwfctl, committed)
    assert failed["check"] == "anchors"
    assert f"anchor 7 in layer {entry.layers[1]}" in failed["detail"]


@pytest.mark.parametrize("what", ["scale", "bases", "layers"])
def test_a_manifest_that_has_sealed_bases_act_otherwise_is_found(
    niwfctl: Command, refused: Refused, committed: Repository, what: str
) -> None:
    from niwfctl.repository.record import record

    capability = committed.capability("apple")
    (entry,) = capability.regions
    value = getattr(entry, what)
    other = 4 * value if what == "scale" else value[::-1]
    entries = (entry.model_copy(update={what: other}),)
    forged = capability.model_copy(update={"regions": entries})
    record(committed, lambda atlas: atlas | {"apple": forged}, "Forge")
    (failed,) = failed_checks(niwfctl, committed)
    assert failed["check"] == "anchors" and "do not fit each other" in failed["detail"]
    refused(committed, ["export", "apple", "out"], 8, "do not fit each other")


@pytest.mark.parametrize("file", ["niwf.toml", manifest_file("apple")])
def test_a_repository_of_a_newer_format(refused: Refused, committed: Repository, file: str) -> None:
    path = committed.path / file
    newer = re.sub(r'^(\s*"?format"? ?[=:]) \d+', r"\1 99", path.read_text(), count=1, flags=re.M)
    path.write_text(newer)
    committed.git.plain("commit", "-am", "newer")
    for command in (
        ["status"],
        ["show", "apple"],
        ["verify"],
        ["run", "x", "--capability", "apple"],
    ):
        refused(committed, command, 11, file, "upgrade")


def test_a_checkpoint_of_a_newer_format(
    niwfctl: Command, refused: Refused, trained: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    path = trained.trainings.checkpoint("apple")
    run, tensors = checkpoint.load(path)
    checkpoint.save(path, run.model_copy(update={"format": 2}), tensors)
    assert niwfctl("-C", trained.path, "status").exit_code == 0
    assert str(path) in caplog.text and "format 2" in caplog.text
    refused(trained, ["commit", "apple", "-m", "x"], 11, path, "format 2")


def test_a_damaged_checkpoint_is_named_and_can_be_thrown_away(
    niwfctl: Command,
    refused: Refused,
    trained: Repository,
    data: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = trained.trainings.checkpoint("apple")
    os.truncate(path, 5000)
    assert niwfctl("-C", trained.path, "status").exit_code == 0
    assert str(path) in caplog.text
    for command in (["commit", "apple", "-m", "x"], ["train", "apple", "--resume"]):
        refused(trained, command, 11, path)
    again = ("--data", data, "--restart", "--steps", 1, "--rank", 2)
    assert niwfctl("-C", trained.path, "train", "apple", *again).exit_code == 0
    assert niwfctl("-C", trained.path, "status").exit_code == 0


def test_a_backbone_that_is_not_the_pinned_one(
    niwfctl: Command,
    refused: Refused,
    committed: Repository,
    backbone: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = shutil.copytree(backbone, tmp_path / "copy")
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(copy))
    assert niwfctl("-C", committed.path, "run", "x", "--max-new-tokens", 1).exit_code == 0
    flip_a_bit(copy / "model.safetensors")
    for command in (["run", "x"], ["train", "x", "--data", data], ["eval", "--data", data]):
        refused(committed, command, 7, copy, "pins", "NIWFCTL_BACKBONE")
    assert [check["subject"] for check in failed_checks(niwfctl, committed)] == ["backbone"]


@pytest.mark.parametrize("model", ["/their/llama", "their/llama"])
def test_a_backbone_that_only_others_have(
    refused: Refused, committed: Repository, model: str, hub_cache: Path
) -> None:
    file = committed.path / "niwf.toml"
    file.write_text(file.read_text().replace(committed.config.backbone.model, model))
    committed.git.plain("commit", "--quiet", "--all", "-m", "Theirs")
    refused(committed, ["run", "x"], 7, f"{model!r}", "this repository pins it", "NIWFCTL_BACKBONE")


def test_a_backbone_that_is_not_there(
    niwfctl: Command,
    refused: Refused,
    committed: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(tmp_path / "gone"))
    words = "does not exist", "set NIWFCTL_BACKBONE to where"
    refused(committed, ["run", "x"], 7, tmp_path / "gone", *words, "or unset it")
    (failed,) = failed_checks(niwfctl, committed, code=7)
    assert failed["subject"] == "backbone"
    (tmp_path / "gone").mkdir()
    refused(committed, ["run", "x"], 7, tmp_path / "gone", "no model weights")
    for command in (["status"], ["log"], ["show", "apple"], ["checkout", "apple"]):
        assert niwfctl("-C", committed.path, *command).exit_code == 0


@pytest.mark.parametrize("device", ["cuda:99", "no-such-device"])
def test_a_device_that_is_not_there(
    refused: Refused,
    committed: Repository,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
) -> None:
    monkeypatch.setenv("NIWFCTL_DEVICE", device)
    for command in (["run", "x"], ["train", "x", "--data", data], ["eval", "--data", data]):
        refused(committed, command, 7, f"NIWFCTL_DEVICE={device}", "unset it")


def test_a_git_that_does_not_know_who_commits(
    refused: Refused, trained: Repository, backbone: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    trained.git.plain("config", "user.useConfigOnly", "true")
    refused(trained, ["commit", "-m", "x"], 10, "git config --global user.name")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.useConfigOnly")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    refused(tmp_path, ["init", "new", "--model", backbone], 10, "git config --global user.name")
    assert not (tmp_path / "new").exists()


def test_a_machine_without_git_is_told_so(committed: Repository, tmp_path: Path) -> None:
    program = "import sys; from niwfctl.cli.main import app; app(sys.argv[1:])"
    for command, code in (("status", 10), ("doctor", 1)):
        done = subprocess.run(
            [sys.executable, "-c", program, "-C", committed.path, command],
            env=os.environ | {"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == code and "install git" in done.stdout + done.stderr


def test_a_history_that_is_damaged_further_down_is_told_without_a_traceback(
    refused: Refused, committed: Repository
) -> None:
    parent = committed.git.resolve("HEAD~1")
    (committed.path / ".git" / "objects" / parent[:2] / parent[2:]).unlink()
    refused(committed, ["log"], 10, "git failed", parent)


def test_a_name_that_no_file_can_have_is_told_as_such(
    refused: Refused, committed: Repository
) -> None:
    refused(committed, ["train", "pear", "--data", "x" * 300], 2, "longer than a file name")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_repository_that_may_not_be_written(refused: Refused, trained: Repository) -> None:
    trained.store.root.chmod(0o555)
    refused(trained, ["commit", "-m", "x"], 12, "is closed to you")


def test_a_file_that_may_not_be_read_is_not_told_as_a_disk_that_cannot_be_written() -> None:
    with pytest.raises(StorageError, match="data is closed to you") as error, storing():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "data")
    assert "written" not in str(error.value)


def of_a_newer_version(path: Path) -> None:
    run, tensors = checkpoint.load(path)
    checkpoint.save(path, run.model_copy(update={"format": 9}), tensors)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [of_a_newer_version, cut_short])
def test_a_training_that_cannot_be_read_stands_in_the_way_of_no_other(
    niwfctl: Command,
    refused: Refused,
    trained: Repository,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    path = trained.trainings.checkpoint("plum")
    shutil.copytree(trained.trainings.root / "apple", path.parent)
    damage(path)
    listed = niwfctl("-C", trained.path, "status", "--json")
    assert [one["name"] for one in json.loads(listed.stdout)["uncommitted"]] == ["apple"]
    (told,) = caplog.messages
    assert str(path) in told and "niwfctl train plum --restart" in told
    refused(trained, ["commit", "plum", "-m", "x"], 11, path, "--restart")
    refused(trained, ["gc"], 11, "nothing was removed", path, f"remove {path.parent}")
    assert niwfctl("-C", trained.path, "commit", "-m", "x").exit_code == 0
    assert "apple" in trained.atlas()
    shutil.rmtree(path.parent)
    assert niwfctl("-C", trained.path, "gc").exit_code == 0


@pytest.mark.parametrize(
    "content",
    ["", "{", "3", '["x"]', '[{"id": "0", "of_a_newer_version": 1}]', "\udcff"],
    ids=["empty", "cut short", "a number", "no operation", "newer", "no text"],
)
def test_an_operation_log_that_cannot_be_read_is_named_and_fails_no_commit(
    niwfctl: Command,
    refused: Refused,
    trained: Repository,
    caplog: pytest.LogCaptureFixture,
    content: str,
) -> None:
    log = trained.private / "operations" / "log.json"
    damaged = content.encode(errors="surrogateescape")
    log.write_bytes(damaged)
    for command in (["undo"], ["undo", "--list"], ["gc"]):
        refused(trained, command, 11, log, "remove it")
    assert log.read_bytes() == damaged
    assert niwfctl("-C", trained.path, "commit", "-m", "x").exit_code == 0
    (told,) = caplog.messages
    (aside,) = log.parent.glob("unreadable-*.json")
    assert aside.name in told and aside.read_bytes() == damaged
    assert [one.command for one in trained.operations.entries()]
    assert niwfctl("-C", trained.path, "undo").exit_code == 0
    assert [run.name for run in trained.uncommitted()] == ["apple"]
