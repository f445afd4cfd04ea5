"""Every command, as its user types it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import tiny_model, tiny_tokenizer, write_data
from typer.testing import Result

from niwfctl import __version__
from niwfctl.doctor import EXTRAS
from niwfctl.repository import Repository
from niwfctl.repository.compose import Recipe
from niwfctl.repository.record import record

Command = Callable[..., Result]
NIWFCTL = str(Path(sys.executable).with_name("niwfctl"))


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
    (tmp_path / ".gitattributes").write_text("*.png binary")  # no newline at its end
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    subprocess.run(["git", "-C", tmp_path, "commit", "-qm", "Mine"], check=True)
    assert niwfctl("-C", tmp_path, "init", "--model", backbone, "--dim", 8).exit_code == 0
    listed = subprocess.check_output(["git", "-C", tmp_path, "ls-tree", "--name-only", "HEAD"])
    assert {"mine.txt", "niwf.toml", ".gitattributes"} <= set(listed.decode().split())
    rules = (tmp_path / ".gitattributes").read_text().splitlines()
    assert rules[0] == "*.png binary" and rules[1].startswith("objects/*.safetensors filter=lfs")
    assert rules[2:] == ["capabilities/*.json -merge"]
    assert not subprocess.check_output(["git", "-C", tmp_path, "status", "--porcelain"])


def test_init_pins_a_model_of_ones_home_where_it_is(
    niwfctl: Command, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(backbone.parent))
    made = niwfctl("-C", tmp_path, "init", f"--model=~/{backbone.name}", "--dim", 8, "--json")
    assert report(made)["model"] == str(backbone.resolve())
    assert niwfctl("-C", tmp_path, "verify", "--deep").exit_code == 0


def test_init_at_a_link_makes_the_repository_where_it_leads(
    niwfctl: Command, backbone: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    made = niwfctl("-C", tmp_path, "init", tmp_path / "link", "--model", backbone, "--dim", 8)
    assert made.exit_code == 0, made.output
    assert not Repository.open(tmp_path / "folder").changes()


def test_train_commit_and_show_tell_the_same_story(
    niwfctl: Command, fresh: Repository, data: Path
) -> None:
    options = ("--steps", 2, "--rank", 2, "--val-split", 0.2, "--batch-size", 4)
    trained = report(niwfctl("-C", fresh.path, "train", "a", "--data", data, *options, "--json"))
    assert trained["finished"]
    status = report(niwfctl("-C", fresh.path, "status", "--json"))
    assert [one["name"] for one in status["uncommitted"]] == ["a"]
    done = report(niwfctl("-C", fresh.path, "commit", "a", "-m", "First", "--json"))
    shown = report(niwfctl("-C", fresh.path, "show", "a", "--json"))
    assert shown == done["capabilities"][0]
    assert shown["regions"][0]["training"]["perplexity"] == trained["perplexity"]
    assert shown["regions"][0]["training"]["sources"] == [data.name]
    log = report(niwfctl("-C", fresh.path, "log", "--json"))
    assert log[0]["commit"] == done["commit"]
    assert log[0]["changes"] == [{"kind": "added", "name": "a", "capability": shown}]
    status = report(niwfctl("-C", fresh.path, "status", "--json"))
    assert status["capabilities"] == ["a"] and not status["uncommitted"] and not status["changes"]


def test_progress_of_training_goes_to_the_error_stream(
    niwfctl: Command, fresh: Repository, data: Path
) -> None:
    (fresh.path / "here.jsonl").write_bytes(data.read_bytes())
    options = ("--data", "here.jsonl", "--steps", 2, "--rank", 2, "--val-split", 0.2)
    result = niwfctl("-C", fresh.path, "train", "a", *options)
    lines = result.stderr.splitlines()
    assert lines[:2] == ["a: loading the backbone onto cpu", "a: measuring the base"]
    assert lines[-1] == "a: measuring"
    for step, line in enumerate(lines[2:-1], 1):
        pattern = rf"a: training step {step}/2, loss [\d.]+, .*\d tokens/s, \d+:\d\d left"
        assert re.fullmatch(pattern, line), line
    assert "niwfctl commit a" in result.stdout


def test_ctrl_c_saves_and_resume_finishes(fresh: Repository, data: Path) -> None:
    command = [NIWFCTL, "-C", fresh.path, "train", "a"]
    options = ["--data", data, "--steps", "100", "--rank", "2", "--batch-size", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes["env"] = os.environ | {"OMP_NUM_THREADS": "1"}
    training = subprocess.Popen([*command, *options], **pipes)
    for line in training.stderr:
        if "training step" in line:
            break
    training.send_signal(signal.SIGINT)
    _, said = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "niwfctl train a --resume" in said.splitlines()[-1] and "Traceback" not in said
    stopped = fresh.trainings.get("a")
    assert 0 < stopped.step < 100 and not stopped.finished
    again = subprocess.run([*command, "--resume"], check=True, **pipes)
    first = re.search(r"training step (\d+)/100", again.stderr)
    assert int(first[1]) > stopped.step
    finished = fresh.trainings.get("a")
    assert finished.finished and finished.id == stopped.id and finished.step == 100


def test_status_tells_what_is_active_trained_and_changed(
    niwfctl: Command, trained: Repository
) -> None:
    def status() -> str:
        return niwfctl("-C", trained.path, "status").stdout

    assert "Active: the bare backbone" in status() and "Committed: nothing yet" in status()
    assert "apple: trained, 3 steps" in status()
    trained.commit(["apple"], "Apples")
    trained.checkout("apple")
    assert "Active: apple" in status() and "Committed: apple" in status()
    assert "Nothing to commit" in status()
    (trained.path / "capabilities" / "apple.json").unlink()
    assert "D capabilities/apple.json" in status()


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


def test_commit_of_names_takes_those_alone(
    niwfctl: Command, trained: Repository, tmp_path: Path
) -> None:
    for name in ("plum", "pear"):
        trained.train(name, [write_data(tmp_path / f"{name}.jsonl", word=name)], QUICK)
    assert niwfctl("-C", trained.path, "commit", "plum", "apple", "-m", "Two").exit_code == 0
    assert sorted(Repository.open(trained.path).atlas()) == ["apple", "plum"]
    assert [run.name for run in trained.uncommitted()] == ["pear"]


def test_commit_on_a_terminal_asks_an_editor_for_the_message(
    niwfctl: Command, trained: Repository
) -> None:
    terminal = {"FORCE_COLOR": "1", "EDITOR": "false"}
    refused = niwfctl("-C", trained.path, "commit", env=terminal)
    assert refused.exit_code == 2 and "-m" in refused.stderr
    terminal["EDITOR"] = "sh -c 'echo From the editor > $0'"
    assert niwfctl("-C", trained.path, "commit", env=terminal).exit_code == 0
    assert trained.history.log()[0].message == "From the editor"
    opened = trained.path.parent / "opened"
    terminal["EDITOR"] = f"sh -c 'touch {opened}'"
    assert niwfctl("-C", trained.path, "commit", env=terminal).exit_code == 1
    assert not opened.exists()  # there was nothing to commit


@pytest.mark.parametrize("by", ["GIT_EDITOR", "core.editor"])
def test_commit_opens_the_editor_that_git_would(
    niwfctl: Command, trained: Repository, by: str
) -> None:
    editor = "sh -c 'echo From git > $0'"
    terminal = {"FORCE_COLOR": "1", "EDITOR": "false"}
    if by == "GIT_EDITOR":
        terminal[by] = editor
    else:
        trained.git.plain("config", by, editor)
    assert niwfctl("-C", trained.path, "commit", env=terminal).exit_code == 0
    assert trained.history.log()[0].message == "From git"


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
    routed = niwfctl("-C", committed.path, "route", "-", input="Say apple 3.\n").stdout
    assert routed == niwfctl("-C", committed.path, "route", "Say apple 3.").stdout
    assert run("Say apple 3.", "--stream").stdout.strip() == given.strip()
    assert run("Say apple 3.", "--capability", "apple@HEAD").stdout == given
    assert json.loads(run("Say apple 3.", "--json").stdout)["answer"] == given.strip()


def parrot(folder: Path) -> Path:
    """A backbone that says `a`, a tab, and `:x:x:x`, whatever it is asked."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data.zero_()  # a token's state is its embedding alone
    (first,), after = tokenizer.encode("a"), {"a": "\t", "\t": ":", ":": "x", "x": ":"}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding.data[:, 0] = 1.0
    head.data.zero_()[first, 0] = 1.0
    for one, other in after.items():
        (token,), (follower,) = tokenizer.encode(one), tokenizer.encode(other)
        embedding.data[token, 0] = 0.0
        head.data[follower] += embedding.data[token] / embedding.data[token].norm()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_run_writes_an_answer_as_it_is(niwfctl: Command, tmp_path: Path) -> None:
    path = Repository.init(tmp_path / "new", model=str(parrot(tmp_path / "parrot")), dim=8).path
    for option in ("--no-stream", "--stream"):
        said = niwfctl("-C", path, "run", "hello", "--max-new-tokens", 7, option).stdout
        assert said == "a\t:x:x:\n"


def test_a_conversation_goes_on_after_a_turn_that_is_too_long(committed: Repository) -> None:
    terminal, typed = os.openpty()
    os.write(terminal, b"\n".join([b"hello", b"x" * 600, b"hello again", b"\x04"]))
    command = [NIWFCTL, "-C", committed.path, "run", "--max-new-tokens", "2"]
    done = subprocess.run(command, stdin=typed, capture_output=True, text=True)
    os.close(typed)
    os.close(terminal)
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if "tokens" in line]
    assert len(told) == 1 and told[0].endswith("say less, or start over with /new")
    assert done.stdout.count("> ") == 4


def test_eval_measures_the_base_and_capabilities(
    niwfctl: Command, committed: Repository, data: Path
) -> None:
    options = ("--data", data, "--exact-match", "--max-new-tokens", 4, "--json")
    done = report(niwfctl("-C", committed.path, "eval", "apple", *options))
    base, apple = done["results"]
    assert (base["capability"], apple["capability"]) == (None, "apple")
    assert apple["perplexity"] < base["perplexity"]
    assert 0 <= apple["exact_match"] <= 1
    alone = report(niwfctl("-C", committed.path, "eval", "--data", data, "--json"))
    assert [row["capability"] for row in alone["results"]] == [None]
    assert "exact_match" not in alone["results"][0]


def test_log_is_limited_short_or_drawn(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    add_plum(committed, tmp_path)
    assert len(report(niwfctl("-C", committed.path, "log", "-n", 1, "--json"))) == 1
    short = niwfctl("-C", committed.path, "log", "--oneline").stdout.splitlines()
    words = [line.split(" ", 1)[1] for line in short[:2]]
    assert words == ["(HEAD -> master) Plums + plum", "Apples + apple"]
    assert "+ plum" in niwfctl("-C", committed.path, "log").stdout
    assert "* " in niwfctl("-C", committed.path, "log", "--graph").stdout


def test_show_of_a_commit_says_what_it_added(niwfctl: Command, committed: Repository) -> None:
    text = niwfctl("-C", committed.path, "show").stdout
    assert "capability apple" in text and "anchors" in text


def test_diff_of_revisions_and_of_capabilities(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    add_plum(committed, tmp_path)
    (change,) = report(niwfctl("-C", committed.path, "diff", "--json"))
    assert change["kind"] == "added"
    assert niwfctl("-C", committed.path, "diff", "--exit-code").exit_code == 1
    assert niwfctl("-C", committed.path, "diff", "HEAD", "HEAD", "--exit-code").exit_code == 0
    committed.compose(["apple"], "double", Recipe((2.0,)))
    for other, code in (("apple", 0), ("double", 1)):  # the same bases, with another weight
        done = niwfctl("-C", committed.path, "diff", "apple", other, "--stat", "--exit-code")
        assert done.exit_code == code
    plot = tmp_path / "map.svg"
    assert niwfctl("-C", committed.path, "diff", "apple", "plum", "--plot", plot).exit_code == 0
    assert plot.read_text().startswith("<?xml")
    assert "q_proj" in niwfctl("-C", committed.path, "diff", "apple", "plum").stdout


def test_diff_calls_capabilities_as_they_were_asked_for(
    niwfctl: Command, committed: Repository
) -> None:
    text = niwfctl("-C", committed.path, "diff", "apple@HEAD", "apple").stdout
    assert text.startswith("apple@HEAD against apple\n")
    assert "apple wins 0.0% of apple@HEAD" in text and "cosine 1.000" in text
    assert "0° to 0°" in text and text.count("0.000") == 3 * 7  # layers and modules
    stat = niwfctl("-C", committed.path, "diff", "apple@HEAD", "apple", "--stat").stdout
    assert text.startswith(stat)
    found = report(niwfctl("-C", committed.path, "diff", "apple@HEAD", "apple", "--json"))
    assert (found["a"], found["b"]) == ("apple@HEAD", "apple")


def test_diff_of_revisions_names_the_regions_that_differ(
    niwfctl: Command, committed: Repository
) -> None:
    (entry,) = committed.capability("apple").regions
    text = niwfctl("-C", committed.path, "diff").stdout
    assert text.splitlines()[1].split()[:3] == ["+", "region", entry.id]
    assert niwfctl("-C", committed.path, "diff", "--stat").stdout == text.splitlines()[0] + "\n"
    biased = entry.routing.model_copy(update={"bias": 2.5})
    other = committed.capability("apple").model_copy(
        update={"regions": (entry.model_copy(update={"routing": biased}),)}
    )
    record(committed, lambda atlas: atlas | {"apple": other}, "Another bias")
    (change,) = report(niwfctl("-C", committed.path, "diff", "--json"))
    assert change["kind"] == "changed"
    (region,) = change["regions"]
    assert (region["kind"], region["id"]) == ("changed", entry.id)
    assert "routing: bias 0.0 → 2.5" in niwfctl("-C", committed.path, "diff").stdout
    first = committed.git.plain("rev-list", "--max-parents=0", "HEAD")
    committed.git.checkout(first)
    assert niwfctl("-C", committed.path, "diff").stdout == "no capability differs\n"


def test_verify_reports_every_check(niwfctl: Command, committed: Repository) -> None:
    done = report(niwfctl("-C", committed.path, "verify", "--deep", "--json"))
    assert done["ok"]
    found = [(check["subject"], check["check"]) for check in done["checks"]]
    assert found == [
        ("backbone", "identity"),
        ("coordinates", "objects"),
        ("commit", "signature"),
        ("apple", "objects"),
        ("apple", "anchors"),
        ("atlas", "routing"),
        ("backbone", "logits"),
        ("apple", "logits"),
    ]


def test_verify_looks_at_the_names_and_the_revision_it_is_given(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    first = committed.git.head()
    add_plum(committed, tmp_path)
    committed.store.path(committed.capability("plum").regions[0].region.oid).unlink()

    def subjects(*arguments: str) -> set[str]:
        done = json.loads(niwfctl("-C", committed.path, "verify", *arguments, "--json").stdout)
        assert done["ok"] == all(check["ok"] for check in done["checks"])
        return {check["subject"] for check in done["checks"] if check["ok"]}

    always = {"backbone", "coordinates", "commit"}
    assert subjects() == always | {"apple"}
    assert subjects("plum") == always
    assert subjects("apple") == always | {"apple"}
    assert subjects("--rev", first) == always | {"apple", "atlas"}


def test_doctor_and_version(niwfctl: Command) -> None:
    findings = report(niwfctl("doctor", "--json"))
    assert {"torch", "git", "git-lfs", "smollm2", "cuda"} <= {one["name"] for one in findings}
    for finding in findings:
        assert finding["name"] in niwfctl("doctor").stdout
    extras = {one["name"]: one for one in findings if one["name"] in EXTRAS}
    for name, (packages, _) in EXTRAS.items():
        there = all(map(find_spec, packages))
        assert extras[name]["state"] == ("ok" if there else "note")
        assert there or f"`pip install 'niwfctl[{name}]'`" in extras[name]["detail"]
    (cuda,) = (one["detail"] for one in findings if one["name"] == "cuda")
    assert ("CPU build" in cuda) == (torch.version.cuda is None and torch.version.hip is None)
    assert niwfctl("--version").stdout == f"niwfctl {__version__}\n"


def test_doctor_tries_whether_weights_can_be_put_into_4_bits(
    niwfctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> dict[str, str]:
        (one,) = [one for one in report(niwfctl("doctor", "--json")) if "bits" in one["name"]]
        return one

    assert found()["state"] == "ok" and "4-bit weights on cpu" in found()["detail"]
    monkeypatch.setenv("NIWFCTL_DEVICE", "no-such-device")
    assert found()["state"] == "note" and "no-such-device" in found()["detail"]
