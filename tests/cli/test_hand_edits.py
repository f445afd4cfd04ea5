"""A repository that someone edited by hand and committed with plain git: nonsense is named."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from niwfstore import Pointer
from typer.testing import Result

from niwfctl.cli.show import show_capability
from niwfctl.layout import object_file
from niwfctl.repository import Repository

Command = Callable[..., Result]
Refused = Callable[..., None]
Edit = Callable[[dict, dict], object]

MANIFEST = "capabilities/apple.json"
COMMANDS = (
    ["status"],
    ["show", "apple"],
    ["diff"],
    ["verify"],
    ["checkout", "apple"],
    ["run", "x", "--capability", "apple"],
    ["rm", "apple"],
    ["export", "apple", "out"],
)

NO_MANIFEST: dict[str, str | bytes] = {
    "nothing": "",
    "a list": "[]",
    "a deep list": "[" * 100_000,
    "no text": b"\xff\xfe{",
    "a number of 5000 digits": '{"format": ' + "9" * 5000 + "}",
    "a conflict of git": "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> side\n",
}

WRONG: dict[str, Edit] = {
    "format true": lambda all, region: all.update(format=True),
    "format 0": lambda all, region: all.update(format=0),
    "no region": lambda all, region: all.update(regions=[]),
    "another name": lambda all, region: all.update(name="pear"),
    "a path for a name": lambda all, region: all.update(name="../../apple"),
    "an absolute path for a name": lambda all, region: all.update(name="/tmp/apple"),
    "a path for an object": lambda all, region: region["region"].update(oid="../" * 21 + "x"),
    "an absolute path for an object": lambda all, region: region["region"].update(oid="/etc/x"),
    "a negative size": lambda all, region: region["bases"][0].update(size=-1),
    "a size of 400 digits": lambda all, region: region["region"].update(size=10**400),
    "an order of 4000 digits": lambda all, region: region["terms"].update(order=10**4000),
    "no bases": lambda all, region: region.update(bases=[]),
    "no layers": lambda all, region: region.update(layers=[]),
    "a scale that is no number": lambda all, region: region.update(scale=float("nan")),
    "an infinite scale": lambda all, region: region.update(scale=float("inf")),
    "a bias that is infinite": lambda all, region: region["routing"].update(bias=float("inf")),
    "a bound that is no number": lambda all, region: region["routing"]["base"].update(
        bound=float("nan")
    ),
    "a shadow that is no number": lambda all, region: region["routing"].update(
        shadow={"x": float("nan")}
    ),
    "more anchors won than there are": lambda all, region: region["routing"]["base"].update(
        won=10**6
    ),
    "infinite seconds": lambda all, region: region["run"].update(seconds=float("inf")),
    "no radius": lambda all, region: region.update(radius=0),
    "no anchors": lambda all, region: region.update(anchors=-5),
    "no run": lambda all, region: region.pop("run"),
    "an unfinished run": lambda all, region: region["run"].update(witness=None),
    "rank 0": lambda all, region: region["run"]["options"].update(rank=0),
    "no platform": lambda all, region: region.update(sealed_on={}),
    "no threads": lambda all, region: region["sealed_on"].update(threads=0),
    "endless threads": lambda all, region: region["sealed_on"].update(threads=200_000),
    "something more": lambda all, region: all.update(more=1),
}

MISFIT: dict[str, Edit] = {
    "a region for a basis": lambda all, region: region["bases"].append(region["region"]),
    "a basis for the region": lambda all, region: region.update(region=region["bases"][0]),
    "a basis less": lambda all, region: region["bases"].pop(),
    "a basis twice": lambda all, region: region["bases"].append(region["bases"][0]),
    "other layers": lambda all, region: region.update(layers=[100, 101, 102]),
    "a layer less": lambda all, region: region["layers"].pop(),
    "a layer twice": lambda all, region: region["layers"].append(region["layers"][0]),
    "another radius": lambda all, region: region.update(radius=region["radius"] * 2),
    "endless anchors": lambda all, region: region.update(anchors=10**9),
    "another size": lambda all, region: region["region"].update(size=10**12),
}


def commit(repository: Repository, content: str | bytes) -> None:
    path = repository.path / MANIFEST
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    repository.git.plain("commit", "-qam", "By hand")


def edited(repository: Repository, edit: Edit) -> str:
    manifest = json.loads((repository.path / MANIFEST).read_text())
    edit(manifest, manifest["regions"][0])
    return json.dumps(manifest)


@pytest.mark.parametrize("content", NO_MANIFEST.values(), ids=NO_MANIFEST)
def test_what_is_no_manifest_is_refused_by_every_command(
    refused: Refused, committed: Repository, content: str | bytes
) -> None:
    commit(committed, content)
    for command in COMMANDS:
        refused(committed, command, 11, MANIFEST)


@pytest.mark.parametrize("edit", WRONG.values(), ids=WRONG)
def test_a_manifest_with_a_wrong_entry_is_refused_by_every_command(
    refused: Refused, committed: Repository, edit: Edit
) -> None:
    commit(committed, edited(committed, edit))
    for command in COMMANDS:
        refused(committed, command, 11, MANIFEST)


def test_a_manifest_of_many_megabytes_is_refused_before_it_is_read(
    refused: Refused, committed: Repository
) -> None:
    commit(committed, (committed.path / MANIFEST).read_text() + " " * (16 << 20))
    refused(committed, ["status"], 11, MANIFEST, "16,777,216 at most")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no region", "is wrong: a capability has either regions or parts; restore it"),
        ("an unfinished run", "is wrong: regions.0.run: a committed training must be finished"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said_in_one_sentence(
    refused: Refused, committed: Repository, kind: str, words: str
) -> None:
    commit(committed, edited(committed, WRONG[kind]))
    refused(committed, ["log", "apple"], 11, f"{MANIFEST} {words}")


def test_a_capability_whose_name_is_reserved_by_now_stays_readable(
    niwfctl: Command, committed: Repository
) -> None:
    committed.git.plain("mv", MANIFEST, MANIFEST.replace("apple", "commit"))
    (committed.path / MANIFEST).with_stem("commit").write_text(
        committed.capability("apple").model_copy(update={"name": "commit"}).dump()
    )
    committed.git.plain("commit", "-qam", "By an earlier version")
    assert niwfctl("-C", committed.path, "verify").exit_code == 0
    committed.rename("commit", "messages")
    assert list(committed.atlas()) == ["messages"]


@pytest.mark.parametrize("content", NO_MANIFEST.values(), ids=NO_MANIFEST)
def test_a_broken_manifest_that_was_mended_stays_in_the_history_and_stops_nothing(
    niwfctl: Command,
    committed: Repository,
    data: Path,
    caplog: pytest.LogCaptureFixture,
    content: str | bytes,
) -> None:
    whole = (committed.path / MANIFEST).read_text()
    commit(committed, content)
    commit(committed, whole)

    def ask(*command: str | Path) -> Result:
        found = niwfctl("-C", committed.path, *command)
        assert found.exit_code == 0, found.stderr
        return found

    assert "~ apple  cannot be read in this commit" in ask("log").stdout
    assert ask("log", "--graph").stdout.count("~ apple") == 2
    _, broken, *_ = json.loads(ask("log", "--json").stdout)
    assert broken["changes"] == [{"kind": "changed", "name": "apple", "capability": None}]
    assert MANIFEST in " ".join(ask("show", "HEAD~1").stderr.split())
    table = ask("eval", "--matrix", "--data", f"apple={data}", "--json")
    assert len(json.loads(table.stdout)["commits"]) == 2 and "is left out" in caplog.text
    refused = niwfctl("-C", committed.path, "rollback", "apple")
    assert refused.exit_code == 4 and "no earlier version" in refused.stderr


@pytest.mark.parametrize("name", ["a\nb", "x[red]", "-x", "x.lock", "x" * 101])
def test_a_manifest_under_a_name_that_none_may_have_is_refused(
    refused: Refused, committed: Repository, name: str
) -> None:
    text = edited(committed, lambda all, region: all.update(name=name))
    (committed.path / f"capabilities/{name}.json").write_text(text)
    committed.git.plain("add", "capabilities")
    committed.git.plain("commit", "-qm", "By hand")
    for command in (["status"], ["show", "apple"], ["verify"]):
        refused(committed, command, 11, "cannot name a capability")


def test_show_prints_a_name_as_it_is(
    committed: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    show_capability(committed.capability("apple").model_copy(update={"name": "x[red]"}), {})
    assert capsys.readouterr().out.startswith("capability x[red]  ")


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_shown_as_none_and_stops_nothing(
    niwfctl: Command, committed: Repository, figure: float
) -> None:
    def diverge(all: dict, region: dict) -> None:
        region["run"].update(perplexity=figure, base_perplexity=figure, loss=figure)
        region["run"]["glances"][-1].update(loss=figure)

    commit(committed, edited(committed, diverge))
    shown = niwfctl("-C", committed.path, "show", "apple", "--json")
    assert shown.exit_code == 0 and json.loads(shown.stdout, parse_constant=pytest.fail)
    run = committed.capability("apple").regions[0].run
    assert run.perplexity is None and run.glances[-1].loss is None
    for command in (["log"], ["show", "apple"], ["verify"]):
        assert niwfctl("-C", committed.path, *command).exit_code == 0


@pytest.mark.parametrize("edit", MISFIT.values(), ids=MISFIT)
def test_objects_that_do_not_belong_together_are_refused_and_found_by_verify(
    niwfctl: Command, refused: Refused, committed: Repository, edit: Edit
) -> None:
    commit(committed, edited(committed, edit))
    refused(committed, ["run", "x", "--capability", "apple"], 8, "by hand")
    refused(committed, ["export", "apple", "out"], 8, "by hand")
    result = niwfctl("-C", committed.path, "verify", "--json")
    assert result.exit_code == 1
    assert {one["subject"] for one in json.loads(result.stdout)["checks"] if not one["ok"]} == {
        "apple"
    }
    assert niwfctl("-C", committed.path, "rollback", "apple", "--to", "HEAD~1").exit_code == 0
    assert committed.verify().ok


def header(text: str, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text.encode()


HOSTILE = {
    "nothing": b"",
    "a huge header": header("{}", 1 << 60),
    "a header that is a list": header("[" * 200),
    "a tensor longer than the file": header(
        '{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    ),
    "a pickle": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("which", ["region", "basis"])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_an_object_that_hashes_to_its_name_and_is_no_safetensors_is_refused(
    niwfctl: Command, refused: Refused, committed: Repository, content: bytes, which: str
) -> None:
    pointer = Pointer(hashlib.sha256(content).hexdigest(), len(content))
    path = committed.store.path(pointer.oid)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (committed.path / object_file(pointer.oid)).write_text(pointer.text())
    committed.git.plain("-c", "filter.lfs.clean=cat", "add", "objects")

    def put(_: dict, region: dict) -> None:
        place, key = (region, "region") if which == "region" else (region["bases"], 0)
        place[key] = {"oid": pointer.oid, "size": pointer.size}

    commit(committed, edited(committed, put))
    commands = [["run", "x", "--capability", "apple"], ["export", "apple", "out"]]
    commands += [["diff", "apple", "apple"]]
    commands += [["route", "x"]] if which == "region" else []
    for command in commands:
        refused(committed, command, 8, pointer.oid, "safetensors")
    for command in ("verify", "fsck"):
        result = niwfctl("-C", committed.path, command)
        assert result.exit_code == 1 and pointer.oid in result.stdout


@pytest.mark.parametrize("which", ["region", "bases"])
def test_a_coordinate_map_that_is_none_is_refused(
    niwfctl: Command, refused: Refused, committed: Repository, which: str
) -> None:
    (entry,) = committed.capability("apple").regions
    other = {"region": entry.region, "bases": entry.bases[0]}[which].oid
    path = committed.path / "niwf.toml"
    path.write_text(path.read_text().replace(committed.config.field.coordinates, other))
    committed.git.plain("commit", "-qam", "By hand")
    for command in (["run", "x"], ["route", "x"]):
        refused(committed, command, 8, other, "niwf.toml", "git checkout")
    result = niwfctl("-C", committed.path, "verify")
    assert result.exit_code == 1 and "is not a coordinate map" in result.stdout


def test_a_wrong_manifest_is_brought_back_as_the_message_says(
    refused: Refused, committed: Repository
) -> None:
    commit(committed, "{}")
    refused(committed, ["show", "apple"], 11, f"git checkout REV -- {MANIFEST}")
    committed.git.plain("checkout", "HEAD~1", "--", MANIFEST)
    committed.git.plain("commit", "-qm", "Bring it back")
    assert Repository.open(committed.path).verify().ok


def test_other_files_beside_the_manifests_are_nobodys_business(
    niwfctl: Command, committed: Repository
) -> None:
    (committed.path / "capabilities" / "README.md").write_text("Apples.\n")
    committed.git.plain("add", ".")
    committed.git.plain("commit", "-qm", "Readme")
    for command in (["status"], ["log"], ["verify"], ["fsck"], ["mv", "apple", "pear"]):
        assert niwfctl("-C", committed.path, *command).exit_code == 0


def pointer_of(repository: Repository) -> Path:
    (entry,) = repository.capability("apple").regions
    return repository.path / "objects" / f"{entry.region.oid}.safetensors"


@pytest.mark.parametrize(
    ("content", "words"),
    [("nonsense", "not a Git LFS pointer"), (None, "is missing"), ("5", "does not point to")],
    ids=["nonsense", "removed", "another size"],
)
def test_a_pointer_edited_by_hand_is_found_by_verify(
    niwfctl: Command, committed: Repository, content: str | None, words: str
) -> None:
    path = pointer_of(committed)
    if content is None:
        path.unlink()
    else:
        path.write_text(path.read_text()[:-1] + "5\n" if content == "5" else content)
    committed.git.plain("-c", "filter.lfs.clean=cat", "commit", "-qam", "By hand")
    result = niwfctl("-C", committed.path, "verify")
    assert result.exit_code == 1 and words in result.stdout
    assert niwfctl("-C", committed.path, "fsck").exit_code == 1


def test_a_pointer_that_is_a_symbolic_link_is_found_and_never_followed(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    path, outside = pointer_of(committed), tmp_path / "outside"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)
    assert committed.verify().ok  # what is committed counts, not the work tree
    committed.git.plain("commit", "-qam", "By hand")
    result = niwfctl("-C", committed.path, "verify")
    assert result.exit_code == 1 and "not a Git LFS pointer" in result.stdout


def test_nothing_is_written_through_a_symbolic_link_for_a_folder(
    refused: Refused, committed: Repository, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (committed.path / "capabilities").rename(outside)
    (committed.path / "capabilities").symlink_to(outside)
    before = sorted(outside.iterdir())
    refused(committed, ["mv", "apple", "pear"], 2, "capabilities", "symbolic link")
    assert sorted(outside.iterdir()) == before


def test_an_object_that_is_a_symbolic_link_is_put_aside_and_refused(
    niwfctl: Command, committed: Repository, tmp_path: Path
) -> None:
    (entry,) = committed.capability("apple").regions
    path, outside = committed.store.path(entry.region.oid), tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    result = niwfctl("-C", committed.path, "run", "x", "--capability", "apple")
    assert result.exit_code == 8 and "not a regular file" in result.stderr
    kept = committed.private / "quarantine" / entry.region.oid
    assert os.readlink(kept) == str(outside) and outside.is_file() and not path.is_symlink()


def test_histories_that_have_nothing_in_common_merge_if_their_field_is_one(
    niwfctl: Command, refused: Refused, committed: Repository
) -> None:
    tree = committed.git.plain("rev-parse", "HEAD~1^{tree}")
    empty = committed.git.plain("commit-tree", tree, "-m", "Another beginning")
    committed.git.plain("branch", "other", empty)
    assert niwfctl("-C", committed.path, "merge", "other").exit_code == 0
    assert sorted(committed.atlas()) == ["apple"] and committed.verify().ok
    nothing = subprocess.check_output(
        ["git", "-C", committed.path, "hash-object", "-t", "tree", "-w", "/dev/null"], text=True
    )
    foreign = committed.git.plain("commit-tree", nothing.strip(), "-m", "Foreign")
    refused(committed, ["merge", foreign], 2, "niwf.toml")


def test_a_rollback_to_before_there_was_such_a_capability(
    refused: Refused, committed: Repository
) -> None:
    refused(committed, ["rollback", "apple", "--to", "HEAD~1"], 4, "'apple'", "HEAD~1")


@pytest.mark.parametrize("name", ["a\n::set-output name=x::y", "\x1b[2J", "x y", "../x", ""])
def test_a_gate_that_cannot_be_a_capabilitys_fails_in_one_line(
    niwfctl: Command, committed: Repository, tmp_path: Path, name: str
) -> None:
    with (committed.path / "niwf.toml").open("a") as file:
        file.write(f"\n[gates.{json.dumps(name)}]\ndata = 'x.jsonl'\n")
    committed.git.plain("commit", "-qam", "By hand")
    junit = tmp_path / "junit.xml"
    done = niwfctl("-C", committed.path, "check", "--junit", str(junit))
    assert done.exit_code == 1 and "\x1b" not in done.output
    starts = ("ok", "FAILED", "note", "1 of")
    assert all(line.startswith(starts) for line in done.stdout.splitlines())
    assert ElementTree.parse(junit).getroot().get("failures") == "1"


@pytest.mark.parametrize(
    "value", ["[" * 3000 + "]" * 3000, "{a=" * 3000 + "1" + "}" * 3000, "9" * 100_000]
)
def test_a_configuration_that_python_cannot_hold_is_refused(
    refused: Refused, committed: Repository, value: str
) -> None:
    with (committed.path / "niwf.toml").open("a") as file:
        file.write(f"\nx = {value}\n")
    committed.git.plain("commit", "-qam", "By hand")
    for command in (["status"], ["check"]):
        refused(committed, command, 11, "niwf.toml is not valid TOML", "restore it")
