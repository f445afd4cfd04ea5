"""Who signed a commit, as git judges it."""

from __future__ import annotations

from dataclasses import dataclass

from niwfctl.repository.git import Git

_STATES = {
    "G": "good",
    "B": "bad",
    "U": "unknown key",
    "E": "unknown key",
    "X": "expired",
    "Y": "expired",
    "R": "revoked key",
}


@dataclass(frozen=True)
class Signature:
    """The signature of one commit.

    Attributes:
        state: `good`, `bad` (the commit is not what was signed), `unknown key`, `revoked key`,
            `expired` or `unsigned`.
        signer: who the key says signed; None where nobody knows.
    """

    state: str
    signer: str | None

    def __str__(self) -> str:
        return f"{self.state}, by {self.signer}" if self.signer else self.state


def signature(git: Git, commit: str) -> Signature:
    """The signature of a commit, by `git log`'s `%G?`."""
    code, signer = git.log(commit, "%G?%x1f%GS", "--max-count=1").split("\x1f")
    if code == "N" and git.has_header(commit, "gpgsig"):
        code = "E"  # git says N as well where it was not told which keys to trust
    return Signature(_STATES.get(code, "unsigned"), signer or None)
