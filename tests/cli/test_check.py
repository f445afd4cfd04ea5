"""Gates for pipelines."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import QUICK
from histories import cut
from tiny import write_data
from typer.testing import Result

from niwfctl.cli.junit import junit
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.verify import Check

Command = Callable[..., Result]
Refused = Callable[..., None]
LIMITS = 'data = "apple.jsonl"\nmax_perplexity = 1e6\nmax_regression = 0.0'


def with_gates(repository: Repository, text: str) -> None:
    write_data(repository.path / "apple.jsonl", rows=6)
    with (repository.path / "niwf.toml").open("a") as file:
        file.write(f"\n{text}\n")
    repository.git.plain("add", "apple.jsonl", "niwf.toml")
    repository.git.plain("commit", "-m", "Gates")


def revise(repository: Repository, data: Path) -> None:
    options = QUICK.model_copy(update={"mode": "revise", "lr": 0.1})
    repository.train("apple", [data], options)
    repository.commit(["apple"], "Revised")


def damage(repository: Repository, oid: str) -> None:
    path = repository.store.path(oid)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"~")


def outcome(niwfctl: Command, repository: Repository, *options: object) -> tuple[int, dict]:
    result = niwfctl("-C", repository.path, "check", "--json", *options)
    checks = json.loads(result.stdout)["checks"]
    return result.exit_code, {(one["subject"], one["check"]): one["ok"] for one in checks}


def test_a_capability_that_passes_its_gates_is_fit_to_ship(
    niwfctl: Command, committed: Repository
) -> None:
    gate = '[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = 1e6\nmax_regression = 0.0'
    with_gates(committed, gate)
    code, checks = outcome(niwfctl, committed)
    assert code == 0
    assert checks["apple", "perplexity"] and checks["apple", "regression"]


@pytest.mark.parametrize(
    ("limit", "check"),
    [("max_perplexity = 1.0", "perplexity"), ("min_exact_match = 1.0", "exact match")],
)
def test_a_capability_that_misses_a_gate_fails_and_junit_says_why(
    niwfctl: Command, committed: Repository, tmp_path: Path, limit: str, check: str
) -> None:
    with_gates(committed, f'[gates.apple]\ndata = "apple.jsonl"\n{limit}')
    code, checks = outcome(niwfctl, committed, "--junit", tmp_path / "report.xml")
    assert code == 1 and not checks["apple", check]
    (failure,) = ElementTree.parse(tmp_path / "report.xml").iterfind(".//failure")
    assert "at " in failure.get("message")


def test_a_gate_for_a_capability_that_is_not_there_fails(
    niwfctl: Command, committed: Repository
) -> None:
    with_gates(committed, '[gates.pear]\ndata = "apple.jsonl"')
    code, checks = outcome(niwfctl, committed)
    assert code == 1 and not checks["pear", "gate"]


def test_an_unchanged_capability_is_not_measured_twice(
    niwfctl: Command, committed: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gates(committed, '[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = 1e6')
    first = outcome(niwfctl, committed)
    monkeypatch.setattr(Repository, "load", None)  # measuring again would need it
    assert outcome(niwfctl, committed) == first


def test_what_has_become_worse_fails_against_the_revision_that_was_better(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}")
    first = committed.git.head()
    revise(committed, write_data(tmp_path / "other.jsonl", word="zzz"))
    data = ("--data", committed.path / "apple.jsonl", "--json")
    done = niwfctl("-C", committed.path, "eval", f"apple@{first}", "apple", *data)
    _, before, after = (row["perplexity"] for row in json.loads(done.stdout)["results"])
    assert before != after
    code, checks = outcome(niwfctl, committed)
    assert (code == 0) == checks["apple", "regression"] == (after < before)
    assert outcome(niwfctl, committed, "--against", first)[0] == code
    assert outcome(niwfctl, committed, "--against", "HEAD")[0] == 0
    committed.rollback("apple")
    assert outcome(niwfctl, committed)[0] == 1 - code


def test_what_is_new_has_not_become_worse(niwfctl: Command, committed: Repository) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}")
    done = niwfctl("-C", committed.path, "check", "--against", "HEAD~2")
    assert done.exit_code == 0 and "it is new since HEAD~2" in done.stdout
    cut(committed)
    done = niwfctl("-C", committed.path, "check")
    assert done.exit_code == 0 and "the first commit" in done.stdout


def test_on_a_branch_that_has_just_begun_everything_is_new(
    niwfctl: Command, committed: Repository
) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}")
    done = niwfctl("-C", committed.path, "check", "--against", "0" * 40)
    assert done.exit_code == 0 and "it is new since the branch began" in done.stdout


def test_what_is_not_what_was_committed_is_not_measured(
    niwfctl: Command, committed: Repository
) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}")
    damage(committed, committed.capability("apple").objects[0].oid)
    code, checks = outcome(niwfctl, committed)
    assert code == 1 and not checks["apple", "gate"] and ("apple", "perplexity") not in checks


def test_a_gate_without_limits_says_that_nothing_was_measured(
    niwfctl: Command, committed: Repository
) -> None:
    assert "sets no gates" in niwfctl("-C", committed.path, "check").stdout
    with_gates(committed, '[gates.apple]\ndata = "apple.jsonl"')
    done = niwfctl("-C", committed.path, "check")
    assert done.exit_code == 0 and "it sets no limit" in done.stdout


def test_gates_that_are_not_committed_do_not_count_and_it_is_said(
    niwfctl: Command, committed: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    with_gates(committed, "")
    assert not caplog.messages
    with (committed.path / "niwf.toml").open("a") as file:
        file.write('\n[gates.pear]\ndata = "apple.jsonl"\n')
    assert niwfctl("-C", committed.path, "check").exit_code == 0
    assert any("niwf.toml differs from HEAD" in message for message in caplog.messages)


@pytest.mark.parametrize("committed_before", [True, False])
def test_data_that_differ_from_heads_are_measured_and_it_is_said(
    niwfctl: Command,
    committed: Repository,
    caplog: pytest.LogCaptureFixture,
    committed_before: bool,
) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}")
    assert outcome(niwfctl, committed)[0] == 0 and not caplog.messages
    if committed_before:
        write_data(committed.path / "apple.jsonl", rows=5)
    else:
        committed.git.plain("rm", "--quiet", "--cached", "apple.jsonl")
        committed.git.plain("commit", "--quiet", "-m", "Without the data")
    assert outcome(niwfctl, committed)[0] == 0
    (said,) = caplog.messages
    assert said.startswith("apple.jsonl differs from HEAD: the gate of 'apple' is measured on")


@pytest.mark.parametrize("file", ["../apple.jsonl", "/apple.jsonl"])
def test_data_outside_the_repository_is_refused(
    refused: Refused, committed: Repository, file: str
) -> None:
    with_gates(committed, f'[gates.apple]\ndata = "{file}"\nmax_perplexity = 1e6')
    refused(committed, ["check"], 5, "'apple'", "outside the repository")


@pytest.mark.parametrize("source", ["gates", "gates/*.jsonl", "."])
@pytest.mark.parametrize("command", [["check"], ["check", "--against", "HEAD", "--strict"]])
def test_a_folder_or_pattern_is_refused_as_a_gates_data_since_git_tells_changes_of_a_file(
    refused: Refused, committed: Repository, source: str, command: list[str]
) -> None:
    (committed.path / "gates").mkdir()
    write_data(committed.path / "gates/apple.jsonl", rows=6)
    committed.git.plain("add", "gates")
    with_gates(committed, f'[gates.apple]\ndata = "{source}"\nmax_perplexity = 1e6')
    refused(committed, command, 5, "the gate of 'apple'", f"{source} does not exist or is no file")


def test_data_that_are_missing_or_broken_are_named_with_their_gate(
    refused: Refused, committed: Repository
) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}")
    (committed.path / "apple.jsonl").write_text("{oops\n")
    refused(committed, ["check"], 5, "the gate of 'apple'", "apple.jsonl:1 is not JSON")
    (committed.path / "apple.jsonl").unlink()
    refused(committed, ["check"], 5, "the gate of 'apple'", "does not exist")


def test_data_that_git_lfs_has_not_fetched_are_said_to_be(
    refused: Refused, committed: Repository
) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (committed.path / "apple.jsonl").write_text(pointer)
    refused(committed, ["check"], 5, "is a Git LFS pointer", "git lfs pull --include")


def test_an_unknown_revision_is_refused_whether_or_not_a_gate_needs_it(
    refused: Refused, committed: Repository
) -> None:
    refused(committed, ["check", "--against", "nowhere"], 4, "nowhere")
    refused(committed, ["check", "--against", "-x"], 4, "-x")


def test_a_shallow_clone_lacks_what_to_compare_with_and_is_told_so(
    refused: Refused, committed: Repository, tmp_path: Path
) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}")
    source = f"file://{committed.path}"
    subprocess.run(["git", "clone", "-q", "--depth=1", source, tmp_path / "copy"], check=True)
    refused(tmp_path / "copy", ["check"], 4, "shallow", "git fetch --deepen=1")


def test_a_shallow_clone_is_enough_where_nothing_is_compared(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    with_gates(committed, '[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = 1e6')
    source = f"file://{committed.path}"
    subprocess.run(["git", "clone", "-q", "--depth=1", source, tmp_path / "copy"], check=True)
    objects = committed.path / ".git" / "lfs"
    shutil.copytree(objects, tmp_path / "copy" / ".git" / "lfs", dirs_exist_ok=True)
    assert outcome(niwfctl, Repository.open(tmp_path / "copy"))[0] == 0


@pytest.mark.parametrize("file", ["none/report.xml", "capabilities"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(
    refused: Refused, committed: Repository, file: str
) -> None:
    refused(committed, ["check", "--junit", file], 2, "--junit", file)


def test_junit_holds_every_check_whatever_its_words() -> None:
    words = "\x1b[31mred\x1b[0m, \ud800 & <tags>"
    suite = ElementTree.fromstring(
        junit([Check("a\x1b", "b\0", ok, words) for ok in (True, False)])
    )
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert "red" in suite.find("testcase/system-out").text
    assert [case.get("name") for case in suite.iter("testcase")] == ["b�", "b� 2"]
    assert "& <tags>" in suite.find("testcase/failure").get("message")


def test_every_number_of_a_gate_can_be_read_by_a_program(
    niwfctl: Command, committed: Repository
) -> None:
    limits = f"{LIMITS}\nmin_exact_match = 0.0"
    with_gates(committed, f"[gates.apple]\n{limits}")
    done = niwfctl("-C", committed.path, "check", "--json", "--against", "HEAD~1")
    told = json.loads(done.stdout)
    first = committed.git.resolve("HEAD~1")
    assert (told["commit"], told["against"]) == (committed.git.head(), first)
    of = {one["check"]: one for one in told["checks"] if one["subject"] == "apple"}
    perplexity = of["perplexity"]["value"]
    assert f"{perplexity:.4f}" in of["perplexity"]["detail"]
    numbers = {
        name: tuple(one[key] for key in ("value", "limit", "baseline")) for name, one in of.items()
    }
    assert numbers["perplexity"] == (perplexity, 1e6, None)
    assert numbers["exact match"] == (0.0, 0.0, None)
    assert numbers["regression"] == (0.0, 0.0, perplexity)
    assert numbers["anchors"] == (None, None, None)


@pytest.mark.parametrize("against", [(), ("--against", "0" * 40)])
def test_without_a_commit_to_compare_with_none_is_told(
    niwfctl: Command, committed: Repository, against: tuple[str, ...]
) -> None:
    with_gates(committed, '[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = inf')
    told = json.loads(niwfctl("-C", committed.path, "check", "--json", *against).stdout)
    assert told["against"] is None
    assert [one["limit"] for one in told["checks"] if one["check"] == "perplexity"] == [None]


def test_a_capability_that_loses_its_prompts_fails_though_it_is_as_good_by_name(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}\nmin_owned = 0.5")
    asked = ("check", "--json", "--against", "HEAD")
    done = niwfctl("-C", committed.path, *asked)
    (before,) = (one for one in json.loads(done.stdout)["checks"] if one["check"] == "owned")
    assert before["ok"] and before["value"] >= 0.5 == before["limit"]
    narrower = write_data(tmp_path / "narrower.jsonl", rows=10)
    committed.train("plum", [narrower], QUICK)
    committed.commit(["plum"], "Plums", RoutingOptions(supersede=("apple",)))
    code, checks = outcome(niwfctl, committed)
    assert code == 1 and [one for one, ok in checks.items() if not ok] == [("apple", "owned")]
    file = committed.path / "apple.jsonl"
    routed = json.loads(niwfctl("-C", committed.path, "route", "--data", file, "--json").stdout)
    owners = routed[0]["owners"]
    done = niwfctl("-C", committed.path, *asked)
    (after,) = (one for one in json.loads(done.stdout)["checks"] if one["check"] == "owned")
    assert after["value"] == owners.get("apple", 0) / 6
    assert "plum owns" in after["detail"]


def test_a_share_of_prompts_is_measured_without_the_answers(
    niwfctl: Command, committed: Repository
) -> None:
    with_gates(committed, '[gates.apple]\ndata = "apple.jsonl"\nmin_owned = 0.0')
    done = niwfctl("-C", committed.path, "check")
    assert "owners of apple's prompts: measuring 6 rows" in done.stderr
    assert "apple@HEAD" not in done.stderr and "perplexity" not in done.stdout
    assert "measuring" not in niwfctl("-C", committed.path, "check").stderr


@pytest.mark.parametrize("where", ["repository", "nowhere"])
def test_junit_has_the_error_that_ends_a_check(
    niwfctl: Command, committed: Repository, tmp_path: Path, where: str
) -> None:
    with_gates(committed, f"[gates.apple]\n{LIMITS}")
    (committed.path / "apple.jsonl").unlink()
    report = tmp_path / "report.xml"
    report.write_text("an earlier one")
    path, code = (committed.path, 5) if where == "repository" else (tmp_path, 3)
    done = niwfctl("-C", path, "check", "--junit", report)
    assert done.exit_code == code
    suite = ElementTree.parse(report).getroot()
    assert [suite.get(key) for key in ("tests", "errors", "failures")] == ["1", "1", "0"]
    assert suite.find("testcase/error").get("message") in done.stderr.replace("\n", " ")
