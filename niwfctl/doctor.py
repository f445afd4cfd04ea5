"""Checks whether a machine has what niwfctl needs."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from niwfctl.backbone.cache import cache_folder
from niwfctl.backbone.embedded import INSTALL, embedded_gguf
from niwfctl.config import FILE
from niwfctl.errors import BackboneError, GitError, NiwfError
from niwfctl.paths import existing_ancestor

WITH_BF16 = (8, 0)  # compute capability from which tensor cores multiply in bf16
LITTLE_SPACE = 5_000_000_000  # bytes
# By extra of niwfctl: its packages, and what needs them.
EXTRAS = {
    "serve": (("fastapi", "uvicorn"), "`serve` needs"),
    "hub": (("datasets",), "reading data from the hub needs"),
    "peft": (("peft",), "`compose` by PEFT's methods needs"),
}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        state: `ok`, `note` (niwfctl works without it) or `missing` (it does not).
        detail: what was found, or how to get it.
    """

    name: str
    state: str
    detail: str


def examine(directory: Path) -> list[Finding]:
    """Checks Python, packages, extras, CUDA, git, git-lfs, the disks and the embedded backbone.

    In a repository, it also checks whether plain `git push` carries objects.
    """
    return [
        Finding("python", "ok", platform.python_version()),
        *map(_package, ("torch", "transformers", "safetensors")),
        _bitsandbytes(),
        _cuda(),
        *map(_extra, EXTRAS),
        _git(),
        _program("git-lfs", "note", "needed to push and fetch: https://git-lfs.com"),
        *_hook(directory),
        *_disk(directory),
        _embedded(),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", f"install it with `pip install {name}`")


def _extra(name: str) -> Finding:
    packages, needing = EXTRAS[name]
    try:
        found = ", ".join(f"{package} {version(package)}" for package in packages)
    except PackageNotFoundError:
        advice = f"{needing} {' and '.join(packages)}: `pip install 'niwfctl[{name}]'`"
        return Finding(name, "note", advice)
    return Finding(name, "ok", found)


def _bitsandbytes() -> Finding:
    """Whether it is installed and can quantize to 4 bits on the device that models run on."""
    found = _package("bitsandbytes")
    if found.state != "ok":
        return found
    try:
        from niwfctl.backbone.load import default_device
        from niwfctl.backbone.quantized import require_nf4
    except ImportError:
        return Finding(
            found.name, "note", f"{found.detail}, untried without torch and transformers"
        )
    try:
        require_nf4(device := default_device())
    except BackboneError as error:
        return Finding(found.name, "note", f"{found.detail}, but {error}")
    return Finding(found.name, "ok", f"{found.detail}, makes 4-bit weights on {device}")


def _cuda() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("cuda", "note", "unknown: torch is missing")
    if torch.version.cuda is None and torch.version.hip is None:
        built = "this torch is a CPU build, which sees no GPU: models run on the CPU"
        return Finding("cuda", "note", f"{built}; https://pytorch.org has builds with CUDA")
    if not torch.cuda.is_available():
        return Finding("cuda", "note", "no GPU is visible to torch: models run on the CPU")
    slow = torch.cuda.get_device_capability() < WITH_BF16
    remark = ", without tensor cores for bf16: slow" if slow else ""
    detail = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}{remark}"
    return Finding("cuda", "note" if slow else "ok", detail)


def _git() -> Finding:
    found = _program("git", "missing", "install git: https://git-scm.com/downloads")
    if found.state == "ok":
        from niwfctl.git.process import require_recent_git

        try:
            require_recent_git()
        except GitError as error:
            return Finding("git", "missing", str(error))
    return found


def _program(name: str, otherwise: str, advice: str) -> Finding:
    path = shutil.which(name)
    if not path:
        return Finding(name, otherwise, advice)
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return Finding(name, "ok", said.stdout.strip() or path)


def _hook(directory: Path) -> Iterator[Finding]:
    """Whether plain `git push` carries objects, in a repository."""
    if not shutil.which("git"):
        return
    from niwfctl.git.git import Git
    from niwfctl.repository.lfs import hook_problem

    try:
        git = Git.open(directory)
        if not (head := git.head()) or git.blob(head, FILE) is None:
            return
        problem = hook_problem(git)
    except (NiwfError, OSError):  # which any other command tells
        return
    detail = problem or "it calls git-lfs, so plain `git push` carries objects"
    yield Finding("pre-push hook", "note" if problem else "ok", detail)


def _disk(directory: Path) -> Iterator[Finding]:
    for name, path in (("disk", directory), ("cache disk", cache_folder())):
        free = shutil.disk_usage(existing_ancestor(path)).free
        state = "ok" if free > LITTLE_SPACE else "note"
        yield Finding(name, state, f"{free / 1e9:.1f} GB free at {path}")


def _embedded() -> Finding:
    try:
        return Finding("smollm2", "ok", str(embedded_gguf()))
    except BackboneError:
        return Finding("smollm2", "note", f"the embedded backbone is not installed: `{INSTALL}`")
