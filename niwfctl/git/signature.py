"""Who signed a commit or a tag, as git judges it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from niwfctl.git.git import Git

_STATES = {
    "G": "good",
    "B": "bad",
    "U": "unknown key",
    "E": "unknown key",
    "X": "expired",
    "Y": "expired",
    "R": "revoked key",
}
_GPG = re.compile(r"^\[GNUPG:\] (\w+) [0-9A-F]+ (.*)$", re.M)
_GPG_STATES = {
    "GOODSIG": "good",
    "BADSIG": "bad",
    "EXPSIG": "expired",
    "EXPKEYSIG": "expired",
    "REVKEYSIG": "revoked key",
}
_DOUBTED = re.compile(r"^\[GNUPG:\] TRUST_(UNDEFINED|NEVER)", re.M)
_SSH_GOOD = re.compile(r'^Good "git" signature for (.*) with ', re.M)
_SSH_BAD = re.compile(r"incorrect signature")
_HEADERS = ("gpgsig", "gpgsig-sha256")  # of a signed commit, by its repository's hash function


@dataclass(frozen=True)
class Signature:
    """The signature of one commit or tag.

    Attributes:
        state: `good`, `bad` (it is not what was signed), `unknown key`, `revoked key`,
            `expired` or `unsigned`.
        signer: the signer that the key names; None if unknown.
    """

    state: str
    signer: str | None

    def __str__(self) -> str:
        return f"{self.state}, by {self.signer}" if self.signer else self.state


def signature(git: Git, commit: str) -> Signature:
    """The signature of a commit, by `git log`'s `%G?`."""
    code, signer = git.log(commit, "%G?%x1f%GS", "--max-count=1").split("\x1f", 1)
    if code == "N" and any(git.has_header(commit, header) for header in _HEADERS):
        code = "E"  # git also prints N if it was not told which keys to trust
    return Signature(_STATES.get(code, "unsigned"), signer or None)


def tag_signature(git: Git, tag: str) -> Signature | None:
    """The signature of an annotated tag, as gpg or ssh report it to `git verify-tag`.

    Returns:
        None if no annotated tag has the name.
    """
    if git.kind(tag) != "tag":
        return None
    if "\n-----BEGIN " not in git.plain("cat-file", "tag", tag):
        return Signature("unsigned", None)
    said = git.verify_tag(tag)
    for status, signer in _GPG.findall(said):
        if status in _GPG_STATES:
            doubted = status == "GOODSIG" and _DOUBTED.search(said)
            return Signature("unknown key" if doubted else _GPG_STATES[status], signer)
    if good := _SSH_GOOD.search(said):
        return Signature("good", good[1])
    return Signature("bad" if _SSH_BAD.search(said) else "unknown key", None)
