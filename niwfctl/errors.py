"""Every error a user can meet, with its exit code.

A message is one sentence that names the thing, says what was expected and how to fix it. The
command line prints it without a traceback and exits with `exit_code`; docs/exit-codes.md lists the
codes.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

CODE_NAMES = {  # as docs/exit-codes.md has them
    1: "failed",
    2: "usage",
    3: "not a repository",
    4: "unknown name",
    5: "data",
    6: "training",
    7: "backbone",
    8: "object",
    9: "busy",
    10: "git",
    11: "format",
    12: "storage",
    13: "conflict",
    14: "remote",
    15: "shadowed",
    16: "memory",
    130: "interrupted",
    143: "terminated",
}

_MEMORY = (  # messages of libraries that have no error class for it
    "DefaultCPUAllocator",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def reason(error: Exception) -> str:
    """The first line of a library's error message, or its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def of_memory(error: Exception) -> bool:
    """Whether a GPU or the machine had too little memory."""
    if isinstance(error, RuntimeError):  # torch's own out-of-memory error is one, too
        return tells_of_memory(str(error))
    return isinstance(error, MemoryError)


def tells_of_memory(text: str) -> bool:
    """Whether a library's message says that there was too little memory."""
    return any(words in text for words in _MEMORY)


def of_device(error: Exception) -> bool:
    """Whether a GPU failed, other than by too little memory: it may compute no more."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error) and not of_memory(error)


def shares_text(owners: dict[str, float], verb: str) -> str:
    """Who owns which share, the largest first, for a message."""
    largest_first = sorted(owners.items(), key=lambda item: -item[1])
    return ", ".join(f"{owner} {verb} {share:.0%}" for owner, share in largest_first)


class NiwfError(Exception):
    """Base of all expected errors. Exit code 1: a check failed or nothing more precise fits."""

    exit_code = 1


class UsageError(NiwfError):
    """The request itself is wrong: an option out of range, an invalid or ambiguous name."""

    exit_code = 2


class NotARepository(NiwfError):
    """No niwfctl repository where one was expected."""

    exit_code = 3


class UnknownName(NiwfError):
    """A capability, revision or region that does not exist."""

    exit_code = 4


class DataError(NiwfError):
    """Training or evaluation data that cannot be used."""

    exit_code = 5


class TrainingError(NiwfError):
    """Training that cannot continue; the last good checkpoint, if any, is kept."""

    exit_code = 6


class BackboneError(NiwfError):
    """A backbone that is missing, unsupported, or not the one the repository pins."""

    exit_code = 7


class OtherBackbone(BackboneError):
    """A backbone that is there, but not the one the repository pins."""


class ObjectError(NiwfError):
    """A stored object that is missing or does not hash to its name."""

    exit_code = 8


class ObjectNotHere(ObjectError):
    """A stored object that is not here and could not be fetched.

    Attributes:
        why: why not: a RemoteError if a remote could not be asked.
    """

    def __init__(self, problem: str, why: NiwfError) -> None:
        super().__init__(f"{problem}, and {why}")
        self.why = why


class Busy(NiwfError):
    """Another process, niwfctl or git, holds the lock; the message names it."""

    exit_code = 9


class GitError(NiwfError):
    """git refused: no identity, a moved ref, a broken repository."""

    exit_code = 10


class FormatError(NiwfError):
    """A repository, manifest or checkpoint of a format this version cannot read."""

    exit_code = 11


class StorageError(NiwfError):
    """The disk is full or read-only."""

    exit_code = 12


class TrainingInterrupted(NiwfError):
    """Ctrl-C during training, or SIGTERM (which exits with 143); the checkpoint is saved."""

    exit_code = 130

    def __init__(self, name: str, step: int, steps: int) -> None:
        super().__init__(
            f"training of {name!r} stopped at step {step} of {steps} and is saved: resume it with "
            f"`niwfctl train {name} --resume`, or end it there with `--finish`"
        )


class Conflict(NiwfError):
    """Both sides of a merge changed the same capabilities, or one removed what the other changed.

    What both only extended is no conflict.

    Attributes:
        names: of these capabilities.
    """

    exit_code = 13

    def __init__(
        self, changed: list[str], removed_here: list[str], removed_there: list[str], revision: str
    ) -> None:
        both, here, there = (
            ", ".join(map(repr, names)) for names in (changed, removed_here, removed_there)
        )
        self.names = sorted([*changed, *removed_here, *removed_there])
        command = f"niwfctl merge {revision}"
        found, ways = [], [f"take one side with `{command} --ours` or `--theirs`"]
        if both:
            found.append(f"both sides changed {both}")
            ways.append(f"keep both with `{command} --rename {changed[0]}=NEW`")
        if here:
            found.append(f"we removed {here}, which {revision} changed")
        if there:
            found.append(f"{revision} removed {there}, which we changed")
        if len(self.names) > 1:
            theirs = [f"`niwfctl rollback NAME --to {revision}`"] if both or here else []
            theirs += ["`niwfctl rm NAME`"] if there else []
            ways.append(f"merge with `--ours`, then {' or '.join(theirs)} where theirs is right")
        super().__init__(f"{', and '.join(found)}: {', or '.join(ways)}")


class Shadowed(NiwfError):
    """Earlier capabilities own too many of a new one's training prompts."""

    exit_code = 15

    def __init__(self, name: str, owners: dict[str, float], allowed: float) -> None:
        super().__init__(
            f"{name!r} would be shadowed: {shares_text(owners, 'owns')} of its prompts, but only "
            f"{allowed:.0%} is allowed; let it compete for them on equal terms with `--supersede "
            f"{max(owners, key=owners.get)}`, keep it out of routing with --manual, or commit it "
            "as it is with --accept-shadow"
        )


class MemoryFull(NiwfError):
    """The device has too little memory for the request."""

    exit_code = 16


class RemoteError(NiwfError):
    """A remote that cannot be reached or refuses, or git-lfs is missing."""

    exit_code = 14


def shared(codes: Sequence[int | None], found: Container[int | None] = (None,)) -> int | None:
    """Exit code of what kept several things from being checked; None if any of them was found bad.

    Args:
        codes: of each, as `hindrance` gives them.
        found: those that say that the check itself found it.
    """
    return None if any(code in found for code in codes) else next(iter(codes), None)


_OF_THE_MACHINE = (BackboneError, MemoryFull, ObjectError, RemoteError, StorageError)


def hindrance(error: NiwfError) -> int | None:
    """Exit code of what kept something from being checked; None if the check itself found it.

    What is missing or out of reach says nothing of whether a thing is as it was committed; bytes
    that differ do.
    """
    if isinstance(error, ObjectNotHere):
        return error.why.exit_code
    if isinstance(error, OtherBackbone) or type(error) is ObjectError:
        return None
    return error.exit_code if isinstance(error, _OF_THE_MACHINE) else None


def hindrance_of_needed(error: NiwfError) -> int | None:
    """As `hindrance`, where the thing at fault is not what is checked, but what it needs."""
    found = hindrance(error)
    return error.exit_code if found is None and isinstance(error, _OF_THE_MACHINE) else found
