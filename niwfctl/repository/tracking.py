"""Which branches of a remote are known here, and which of them a branch follows."""

from __future__ import annotations

from niwfctl.git.git import Git


def place(remote: str, branch: str = "") -> str:
    """Full name of the ref that a fetched branch of a remote has here."""
    return f"refs/remotes/{remote}/{branch}"


def branches_of(git: Git, remote: str) -> list[str]:
    """Names of a remote's branches, as last fetched."""
    listed = git.plain("for-each-ref", "--format=%(refname)", place(remote))
    names = (ref.removeprefix(place(remote)) for ref in listed.split())
    return [name for name in names if name != "HEAD"]


def counterpart(git: Git, remote: str, branch: str) -> str:
    """Name of the remote's branch that a branch has as its upstream, or else its own name."""
    upstream = git.plain("for-each-ref", "--format=%(upstream)", f"refs/heads/{branch}")
    return upstream.removeprefix(place(remote)) if upstream.startswith(place(remote)) else branch


def usual_remote(git: Git, push: bool = False) -> str:
    """The remote where none is named: the current branch's, else the only one, else origin.

    Args:
        push: where it is pushed to, which git's configuration may set apart.
    """
    field = "push" if push else "upstream"
    branch = git.branch()
    own = branch and git.plain(
        "for-each-ref", f"--format=%({field}:remotename)", f"refs/heads/{branch}"
    )
    if own and own != ".":  # which is this repository: the branch follows one of its branches
        return own
    known = git.plain("remote").split()
    return known[0] if len(known) == 1 else "origin"


def follows(git: Git, ref: str) -> bool:
    """Whether a ref is a branch that has an upstream, on whatever remote."""
    branch = git.plain("rev-parse", "--symbolic-full-name", ref).removeprefix("refs/heads/")
    return bool(git.plain("config", "--default=", "--get", f"branch.{branch}.merge"))
