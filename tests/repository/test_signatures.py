"""Signatures: made where git is configured so, and reported as git judges them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from niwfctl.git.signature import signature
from niwfctl.repository import Repository

Add = Callable[..., str]
Command = Callable[..., Result]


def configured(repository: Repository, **settings: object) -> None:
    for name, value in settings.items():
        repository.git.plain("config", name.replace("__", "."), str(value))


@pytest.fixture
def ssh(fresh: Repository, tmp_path: Path) -> Repository:
    """Signs with an ssh key that it trusts."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("needs ssh-keygen")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    allowed = tmp_path / "allowed"
    allowed.write_text(f"ada@example.org {key.with_suffix('.pub').read_text()}")
    configured(fresh, gpg__format="ssh", user__signingKey=key, commit__gpgSign="yes")
    configured(fresh, gpg__ssh__allowedSignersFile=allowed, tag__gpgSign="on")
    return fresh


@pytest.fixture
def sha256(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository of git's longer hash."""
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    return Repository.init(tmp_path / "sha256", model=str(backbone), dim=8)


@pytest.fixture
def gpg(fresh: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Signs with a gpg key of its own."""
    if not shutil.which("gpg"):
        pytest.skip("needs gpg")
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    make = ["--quick-gen-key", "Ada <ada@example.org>", "ed25519", "sign", "never"]
    quiet = ["gpg", "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
    subprocess.run([*quiet, *make], check=True, capture_output=True)
    configured(fresh, user__signingKey="ada@example.org", commit__gpgSign="1", tag__gpgSign="on")
    yield fresh
    subprocess.run(["gpgconf", "--kill", "all"], check=False)


@pytest.mark.parametrize("kind", ["ssh", "gpg"])
def test_every_commit_and_annotated_tag_is_signed_where_git_is_configured_so(
    request: pytest.FixtureRequest, niwfctl: Command, add: Add, kind: str
) -> None:
    repository = request.getfixturevalue(kind)
    signed = [add(repository, "x", 0.1), add(repository, "y", 0.2)]
    branch = repository.git.branch()
    repository.git.plain("checkout", "--quiet", "-b", "side", "HEAD~1")
    signed += [add(repository, "s", 0.4)]
    repository.git.checkout(branch)
    signed += [repository.merge("side").commit, repository.remove("x")]
    signed += [repository.rename("y", "z"), repository.rollback("x").commit]
    for commit in signed:
        repository.git.plain("verify-commit", commit)
        assert signature(repository.git, commit).state == "good"
    assert niwfctl("-C", repository.path, "tag", "v1", "-m", "First").exit_code == 0
    repository.git.plain("verify-tag", "v1")


def tag_reported(niwfctl: Command, repository: Repository, tag: str) -> tuple[int, str | None]:
    """Exit code of `verify --rev TAG`, and what it says of the tag's signature."""
    result = niwfctl("-C", repository.path, "verify", "--rev", tag, "--json")
    checks = json.loads(result.stdout)["checks"]
    found = [check["detail"] for check in checks if check["subject"] == "tag"]
    return result.exit_code, found[0] if found else None


@pytest.mark.parametrize("kind", ["ssh", "gpg"])
def test_verify_reports_who_signed_a_tag_and_fails_where_it_is_not_what_was_signed(
    request: pytest.FixtureRequest, niwfctl: Command, add: Add, tmp_path: Path, kind: str
) -> None:
    repository = request.getfixturevalue(kind)
    git = repository.git.plain
    add(repository, "x", 0.1)
    niwfctl("-C", repository.path, "tag", "v1", "-m", "First")
    signer = {"ssh": "ada@example.org", "gpg": "Ada <ada@example.org>"}[kind]
    assert tag_reported(niwfctl, repository, "v1") == (0, f"good, by {signer}")
    assert tag_reported(niwfctl, repository, "HEAD") == (0, None)
    git("tag", "--no-sign", "-m", "Not signed", "v2")
    git("tag", "--no-sign", "v3")
    assert tag_reported(niwfctl, repository, "v2") == (0, "unsigned")
    assert tag_reported(niwfctl, repository, "v3") == (0, None)
    forged = tmp_path / "forged"
    forged.write_text(git("cat-file", "tag", "v1").replace("First", "Fist") + "\n")
    git("update-ref", "refs/tags/v4", git("hash-object", "-t", "tag", "-w", str(forged)))
    code, detail = tag_reported(niwfctl, repository, "v4")
    assert code == 1 and detail.startswith("bad")
    if kind == "ssh":
        (tmp_path / "allowed").write_text("")
    else:
        shutil.rmtree(tmp_path / "gpg" / "private-keys-v1.d")
        (tmp_path / "gpg" / "pubring.kbx").unlink()
    assert tag_reported(niwfctl, repository, "v1") == (0, "unknown key")


def test_a_tag_that_is_to_be_signed_asks_for_its_message_without_an_editor(
    niwfctl: Command, ssh: Repository
) -> None:
    result = niwfctl("-C", ssh.path, "tag", "v1")
    assert result.exit_code == 2 and "-m" in result.stderr
    assert not ssh.git.names("v1")


def reported(niwfctl: Command, repository: Repository) -> tuple[int, dict]:
    """Exit code of `verify`, and the signature that it and `show` report."""
    result = niwfctl("-C", repository.path, "verify", "--json")
    report = json.loads(result.stdout)
    (check,) = (check for check in report["checks"] if check["check"] == "signature")
    assert check["ok"] == (result.exit_code == 0)
    shown = json.loads(niwfctl("-C", repository.path, "show", "--json").stdout)
    assert shown["signature"] == report["signature"]
    for command in ("show", "verify"):
        text = niwfctl("-C", repository.path, command).stdout
        assert report["signature"]["state"] in text
    return result.exit_code, report["signature"]


def test_a_signature_is_good_until_the_key_is_unknown(
    niwfctl: Command, ssh: Repository, add: Add, tmp_path: Path
) -> None:
    add(ssh, "x", 0.1)
    assert reported(niwfctl, ssh) == (0, {"state": "good", "signer": "ada@example.org"})
    (tmp_path / "allowed").write_text("")
    assert reported(niwfctl, ssh) == (0, {"state": "unknown key", "signer": None})
    ssh.git.plain("config", "--unset", "gpg.ssh.allowedSignersFile")
    assert reported(niwfctl, ssh) == (0, {"state": "unknown key", "signer": None})


def test_a_signature_in_a_repository_of_sha256_is_seen(
    niwfctl: Command, ssh: Repository, sha256: Repository
) -> None:
    key = ssh.git.plain("config", "user.signingKey")
    configured(sha256, gpg__format="ssh", user__signingKey=key)
    sha256.git.plain("commit", "--quiet", "--allow-empty", "--gpg-sign", "--message", "Signed")
    assert reported(niwfctl, sha256) == (0, {"state": "unknown key", "signer": None})


def test_a_commit_that_is_not_signed_is_no_failure(
    niwfctl: Command, fresh: Repository, add: Add
) -> None:
    add(fresh, "x", 0.1)
    assert reported(niwfctl, fresh) == (0, {"state": "unsigned", "signer": None})


def test_a_commit_that_is_not_what_was_signed_fails_verify(
    niwfctl: Command, ssh: Repository, add: Add, tmp_path: Path
) -> None:
    add(ssh, "x", 0.1)
    forged = tmp_path / "forged"
    forged.write_text(ssh.git.plain("cat-file", "commit", "HEAD").replace("Add x", "Add y") + "\n")
    commit = ssh.git.plain("hash-object", "-t", "commit", "-w", str(forged))
    ssh.git.plain("update-ref", "HEAD", commit)
    code, signed = reported(niwfctl, ssh)
    assert code == 1 and signed["state"] == "bad"
    configured(ssh, log__showSignature="true")
    assert reported(niwfctl, ssh) == (code, signed)
