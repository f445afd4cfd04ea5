"""Bad input: its exit code, one sentence, and nothing changed."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from histories import revise
from tiny import write_data
from typer.testing import Result

from niwfctl import errors
from niwfctl.cli.output import READER_GONE
from niwfctl.errors import TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.training.interrupt import TERMINATED

Command = Callable[..., Result]
Refused = Callable[..., None]
ROW = '{"prompt": "a", "completion": "b"}\n'


def test_the_docs_list_every_exit_code() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "exit-codes.md").read_text("utf-8")
    own = (one for one in vars(errors).values() if isinstance(one, type))
    kinds = (one for one in own if issubclass(one, errors.NiwfError))
    assert {kind.exit_code for kind in kinds} | {0, READER_GONE, TERMINATED} == set(
        map(int, re.findall(r"^\| (\d+)", text, re.M))
    )


@pytest.mark.parametrize("arguments", [["status"], ["log"], ["train", "x", "--data", "y"]])
def test_outside_a_repository(refused: Refused, tmp_path: Path, arguments: list[str]) -> None:
    refused(tmp_path, arguments, 3, tmp_path, "niwfctl init")
    refused(tmp_path / "nowhere", arguments, 3, "nowhere")


def test_in_a_git_repository_without_a_field(refused: Refused, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    refused(tmp_path, ["status"], 3, "niwf.toml", "niwfctl init")
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare"], check=True)
    refused(tmp_path / "bare", ["status"], 3, "bare git repository")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["show", "pear"], "neither a capability, a branch, a tag nor a commit is called 'pear'"),
        (["show", "pear@HEAD"], "pear"),
        (["show", "apple@nowhere"], "nowhere"),
        (["show", "apple@"], "apple@"),
        (["show", ""], "''"),
        (["show", "^HEAD"], "^HEAD"),
        (["checkout", "pear"], "pear"),
        (["checkout", "apple@nowhere"], "nowhere"),
        (["run", "hello", "--capability", "pear"], "pear"),
        (["eval", "pear", "--data", "{data}"], "pear"),
        (["verify", "pear"], "pear"),
        (["verify", "apple@HEAD~1"], "`niwfctl verify apple --rev HEAD~1`"),
        (["verify", "--rev", "nowhere"], "nowhere"),
        (["log", "nowhere"], "capabilities are apple"),
        (["log", "--", "--all"], "--all"),
        (["diff", "nowhere"], "neither a capability, a branch, a tag nor a commit is called"),
        (["diff", "apple", "nowhere"], "capabilities are apple"),
        (["diff", "nowhere..HEAD"], "no commit is called 'nowhere'"),
        (["merge", "nowhere"], "nowhere"),
        (["rm", "pear"], "pear"),
        (["rollback", "apple", "--to", "nowhere"], "nowhere"),
        (["export", "pear", "out"], "pear"),
        (["commit", "pear", "-m", "x"], "pear"),
    ],
)
def test_an_unknown_capability_or_revision(
    refused: Refused, committed: Repository, data: Path, arguments: list[str], name: str
) -> None:
    refused(committed, [part.format(data=data) for part in arguments], 4, name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--against", ""],
        ["check", "--strict", "--against", ""],
        ["rollback", "--to", ""],
        ["rollback", "apple", "--to", ""],
        ["checkout", "-b", "side", ""],
        ["branch", "side", ""],
        ["tag", "v1", ""],
        ["diff", ""],
        ["diff", "HEAD", ""],
        ["log", ""],
        ["show", ""],
        ["merge", ""],
        ["verify", "--rev", ""],
        ["eval", "--matrix", "--data", "apple={data}", "--rev", ""],
    ],
    ids=" ".join,
)
def test_an_empty_revision_is_refused_and_not_taken_for_the_default(
    refused: Refused, committed: Repository, data: Path, arguments: list[str]
) -> None:
    revise(committed, "apple", 1)
    refused(committed, [part.format(data=data) for part in arguments], 4, "is called ''")


@pytest.mark.parametrize("span", ["HEAD..HEAD", "HEAD~1..HEAD", "HEAD~1...HEAD", "HEAD.."])
def test_show_refuses_a_range(refused: Refused, committed: Repository, span: str) -> None:
    refused(committed, ["show", span], 2, f"niwfctl log {span}", f"niwfctl diff {span}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["data.jsonl does not exist"]),
        ("", ["data.jsonl holds no records"]),
        (f"{ROW}{{oops", ["data.jsonl:2 is not JSON"]),
        ('{"question": "a", "reply": "b"}\n', ["data.jsonl:1", "`question`", "instruction"]),
        (ROW, ["at least 2 different records are needed", "holds 1"]),
        (ROW * 3 + json.dumps({"prompt": "a", "completion": "b" * 400}), [":4", "--max-length"]),
    ],
    ids=["missing", "empty", "not JSON", "wrong columns", "one row", "a row too long"],
)
def test_data_that_cannot_be_learnt_from(
    refused: Refused, fresh: Repository, tmp_path: Path, content: str | None, words: list[str]
) -> None:
    file = tmp_path / "data.jsonl"
    if content is not None:
        file.write_text(content)
    refused(fresh, ["train", "x", "--data", file, "--max-length", 256], 5, *words)


def test_rows_that_are_all_too_long(refused: Refused, fresh: Repository, data: Path) -> None:
    options = ["--max-length", 4, "--skip-long"]
    refused(fresh, ["train", "x", "--data", data, *options], 5, "all", "--max-length 4")


def test_data_that_cannot_be_measured_on(
    refused: Refused, committed: Repository, tmp_path: Path
) -> None:
    file = tmp_path / "data.jsonl"
    refused(committed, ["eval", "apple"], 2, "--data")
    refused(committed, ["eval", "apple", "--data", file], 5, "does not exist")
    file.write_text(json.dumps({"prompt": "a", "completion": "b" * 600}))
    refused(committed, ["eval", "apple", "--data", file], 5, f"{file}:1", "512")


def test_data_that_has_changed_when_training_goes_on(
    refused: Refused, fresh: Repository, tmp_path: Path
) -> None:
    file = write_data(tmp_path / "plum.jsonl", word="plum")
    with pytest.raises(TrainingInterrupted):
        fresh.train("plum", [file], QUICK, stop=lambda: True)
    write_data(file, word="pear")
    refused(fresh, ["train", "plum", "--resume"], 5, "has changed since")
    file.unlink()
    refused(fresh, ["train", "plum", "--resume"], 5, "does not exist")


def test_a_loss_that_is_no_number_leaves_no_training_behind(
    refused: Refused, fresh: Repository, data: Path
) -> None:
    refused(
        fresh, ["train", "x", "--data", data, "--steps", 9, "--lr", 1e30], 6, "nothing was saved"
    )
    assert not fresh.uncommitted()


def test_a_loss_that_is_no_number_leaves_an_earlier_checkpoint(
    niwfctl: Command, refused: Refused, fresh: Repository, data: Path
) -> None:
    options = QUICK.model_copy(update={"lr": 1e30, "steps": 9})
    done: list[object] = []
    with pytest.raises(TrainingInterrupted):
        fresh.train("x", [data], options, report=done.append, stop=lambda: len(done) > 2)
    assert fresh.trainings.get("x").step == 1
    refused(fresh, ["train", "x", "--resume"], 6, "finite", "checkpoint is kept", "--restart")
    assert "step 1 of 9" in niwfctl("-C", fresh.path, "status").stdout


def test_a_last_step_that_breaks_the_weights_is_no_finished_training(
    refused: Refused, fresh: Repository, data: Path
) -> None:
    refused(fresh, ["train", "x", "--data", data, "--steps", 1, "--lr", 1e30], 6, "--lr")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--tap-layer", 4], 7),
        (["--tap-layer", 0], 7),
        (["--tap-layer", -1], 7),
        (["--dim", 65], 2),
        (["--dim", 0], 2),
        (["--quant", "int3"], 2),
        (["--model", "/nowhere"], 7),
        (["--revision", "v1"], 2),
        (["--model", "~nosuch-user/model"], 7),
    ],
)
def test_init_options_out_of_range(
    refused: Refused, backbone: Path, tmp_path: Path, options: list, code: int
) -> None:
    refused(tmp_path, ["init", "new", "--model", backbone, *options], code, options[1])
    assert not any(tmp_path.iterdir())


def test_init_where_it_cannot_be(
    refused: Refused, fresh: Repository, backbone: Path, tmp_path: Path
) -> None:
    refused(fresh, ["init", "--model", backbone], 2, "already")


@pytest.mark.parametrize("name", ["niwf.toml", ".gitattributes"])
def test_init_over_what_git_could_not_bring_back(
    refused: Refused, backbone: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    refused(tmp_path, ["init", "--model", backbone, "--dim", 8], 2, name)
    assert (tmp_path / name).read_text() == "mine"


def test_init_at_a_file(refused: Refused, backbone: Path, data: Path) -> None:
    refused(data.parent, ["init", data.name, "--model", backbone, "--dim", 8], 2, data.name)


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", 0],
        ["--epochs", 0],
        ["--epochs", "inf"],
        ["--bases", 0],
        ["--bases", 65],
        ["--rank", 0],
        ["--alpha", 0],
        ["--alpha", "inf"],
        ["--lr", -1],
        ["--lr", "nan"],
        ["--batch-size", 0],
        ["--grad-accum", 0],
        ["--max-length", 1],
        ["--val-split", 0],
        ["--val-split", 2],
        ["--seed", -1],
        ["--seed", 2**70],
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_training_options_out_of_range(
    refused: Refused, fresh: Repository, data: Path, options: list
) -> None:
    refused(fresh, ["train", "x", "--data", data, *options], 2, *options[:1])


@pytest.mark.parametrize("name", ["../x", "", "a" * 300, "a/b", "-x", ".x", "x.lock", "x y", "ä"])
def test_a_name_that_git_or_a_disk_could_not_hold(
    refused: Refused, fresh: Repository, data: Path, name: str
) -> None:
    refused(fresh, ["train", "--data", data, "--", name], 2, "cannot name a capability")


@pytest.mark.parametrize(
    ("name", "words"),
    [("CON", "on Windows"), ("aux", "on Windows"), ("com1.old", "on Windows"), ("APPLE", "case")],
)
def test_a_name_that_only_other_systems_could_not_hold(
    refused: Refused, committed: Repository, data: Path, name: str, words: str
) -> None:
    committed.rename("apple", "pear")
    committed.rename("pear", "Apple")
    for command in (
        ["train", name, "--data", data],
        ["import", "none", "--name", name, "--data", data],
        ["compose", "Apple", "--name", name],
        ["mv", "Apple", name],
    ):
        refused(committed, command, 2, f"'{name}'", words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "-x"], "-x"),
        (["train"], "name"),
        (["bake"], "bake"),
        (["log", "-n", "x"], "--max-count"),
        (["run", "x", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["run", "x", "--seed", str(2**70)], "--seed"),
        (["gc", "--keep", "1000000"], "--keep"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_answered_with_its_usage(
    niwfctl: Command, committed: Repository, arguments: list[str], words: str
) -> None:
    result = niwfctl("-C", committed.path, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr and "Usage:" in result.stderr
    assert "Traceback" not in result.stderr and not result.stdout


def test_training_what_is_trained_or_committed_already(
    refused: Refused, committed: Repository, trained: Repository, data: Path
) -> None:
    refused(committed, ["train", "apple", "--data", data], 2, "committed")
    refused(trained, ["train", "apple", "--data", data], 2, "--restart")
    refused(trained, ["train", "apple", "--resume"], 2, "niwfctl commit apple")
    refused(trained, ["train", "apple", "--restart", "--data", "none.jsonl"], 5, "none.jsonl")


def test_training_without_data_or_going_on_with_what_was_not_begun(
    refused: Refused, fresh: Repository
) -> None:
    refused(fresh, ["train", "x"], 2, "--data")
    refused(fresh, ["train", "x", "--resume"], 2, "--data")
    refused(fresh, ["train", "x", "--resume", "--steps", 4], 2, "--data")


def test_a_commit_of_nothing_or_without_a_message(
    refused: Refused, fresh: Repository, trained: Repository
) -> None:
    for message in ([], ["-m", "x"]):
        refused(fresh, ["commit", *message], 1, "nothing to commit")
    refused(trained, ["commit"], 2, "-m")
    refused(trained, ["commit", "-m", " \n"], 2, "-m")


def test_a_commit_of_an_unfinished_training(
    refused: Refused, fresh: Repository, data: Path
) -> None:
    with pytest.raises(TrainingInterrupted):
        fresh.train("x", [data], QUICK, stop=lambda: True)
    refused(fresh, ["commit", "x", "-m", "x"], 2, "step", "--resume")
    refused(fresh, ["commit", "-m", "x"], 1, "no training is finished")


def test_prompts_that_cannot_be_answered(refused: Refused, committed: Repository) -> None:
    refused(committed, ["run", " "], 2, "empty")
    refused(committed, ["run", "-"], 2, "empty", input="")
    refused(committed, ["run", "-"], 2, "UTF-8", input=b"caf\xe9")
    refused(committed, ["run", "caf\udce9"], 2, "UTF-8")
    refused(committed, ["run", "x", "--max-new-tokens", 600], 2, "512")
    refused(committed, ["run", "x", "--base", "--capability", "apple"], 2, "exclude")


def test_a_lora_that_cannot_be_imported(
    niwfctl: Command, refused: Refused, committed: Repository, data: Path, tmp_path: Path
) -> None:
    assert niwfctl("-C", committed.path, "export", "apple", tmp_path / "lora").exit_code == 0
    arguments = ["import", tmp_path / "lora", "--name", "pear"]
    refused(committed, arguments, 2, "--data", "--prompts")
    refused(committed, [*arguments, "--data", data, "--prompts", data], 2, "exclude each other")
    refused(committed, [*arguments, "--data", "none.jsonl"], 5, "none.jsonl")
    refused(committed, [*arguments, "--prompts", "none.txt"], 5, "none.txt")
    refused(committed, [*arguments, "--prompts", tmp_path], 5, "cannot be read")
    refused(
        committed,
        [*arguments, "--data", data, "--max-length", 4],
        5,
        "longer, with their prompts, than --max-length 4",
    )
    refused(committed, [*arguments, "--data", data, "-m", " "], 2, "-m")
    refused(committed, ["import", tmp_path, "--name", "pear", "--data", data], 11, "config.json")
    refused(committed, ["import", "none", "--name", "pear", "--data", data], 2, "none")
    refused(committed, ["import", "none", "--name", "apple", "--data", data], 2, "is committed")
    refused(committed, ["import", "none", "--name", "a/b", "--data", data], 2, "cannot name")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["apple"], "`niwfctl diff apple@HEAD~1 apple`"),
        (["apple@HEAD"], "`niwfctl diff apple@HEAD~1 apple@HEAD`"),
        (["apple", "HEAD"], "'HEAD' is not"),
        (["HEAD", "apple"], "'HEAD' is not"),
    ],
)
def test_a_capability_is_compared_with_another(
    refused: Refused, committed: Repository, targets: list[str], words: str
) -> None:
    refused(committed, ["diff", *targets], 2, "is a capability", words)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["checkout"], 2),
        (["checkout", "apple", "--base"], 2),
        (["run", "x", "--base", "--auto"], 2),
        (["run", "x", "--auto", "--capability", "apple"], 2),
        (["route", " "], 2),
        (["branch", "-d", "none"], 4),
        (["tag", "-d", "none"], 4),
        (["rollback", "none"], 4),
        (["merge", "HEAD", "--ours", "--theirs"], 2),
        (["merge", "HEAD", "--rename", "x"], 2),
        (["diff", "--plot", "map.svg"], 2),
        (["diff", "apple", "apple", "--plot", "map.txt"], 2),
        (["diff", "apple", "apple", "--plot", "none/map.svg"], 2),
        (["map", "--html", "map.html", "--png", "map.png"], 2),
        (["map", "--html", "map.png"], 2),
        (["map", "--png", "map.gif"], 2),
        (["map", "--svg", "none/map.svg"], 2),
        (["map", "--html", "."], 2),
        (["map", "--prompt", " "], 2),
        (["map", "--prompt", "caf\udce9"], 2),
        (["map", "--prompt", "x" * 600], 5),
        (["map", "--data", "none.jsonl"], 5),
        (["mv", "apple", "a/b"], 2),
        (["rollback"], 2),
        (["remote", "remove", "origin"], 4),
        (["branch", "--", "-x"], 2),
        (["tag", "--", "-x"], 2),
        (["train", "pear", "--from", "nope", "--data", "none.jsonl"], 4),
        (["export", "apple", "out", "--format", "gif"], 2),
        (["export", "apple", "capabilities"], 2),
        (["export", "apple", "niwf.toml"], 2),
        (["export", "apple", "niwf.toml", "--format", "gguf-lora"], 2),
        (["export", "apple", "niwf.toml/a.gguf", "--format", "gguf-lora"], 2),
        (["export", "apple", "out", "--data", "none.jsonl"], 5),
        (["bundle", "create", "none/file"], 2),
        (["bundle", "create", "objects"], 2),
        (["bundle", "apply", "none"], 2),
        (["bundle", "apply", "niwf.toml"], 11),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_requests_that_make_no_sense(
    refused: Refused, committed: Repository, arguments: list[str], code: int
) -> None:
    refused(committed, arguments, code)
    assert not (committed.path / "out").exists()
