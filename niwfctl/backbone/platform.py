"""What a computation ran on: float results are equal bit for bit only on the same platform."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch

from niwfctl.records import Platform

COMPUTE = "compute"  # the dtype of 4-bit products, where it is not the one the checkpoint asks for


def current_platform(device: torch.device, *packages: str) -> Platform:
    """Device, threads, and the versions of torch and other packages that bits may depend on."""
    on_cpu = device.type == "cpu"
    return {
        "torch": torch.__version__,
        **{package: version(package) for package in packages},
        "device": _processor() if on_cpu else _name(device),
        "kernels": torch.backends.cpu.get_cpu_capability() if on_cpu else device.type,
        "threads": torch.get_num_threads(),
    }


def same_platform(here: Platform, recorded: Platform) -> bool:
    """Whether equal bits can be expected: everything recorded is the same here.

    The thread count can be matched here, so it matters only above `_most_threads`. Where no dtype
    is recorded that 4-bit weights had to be made to compute in, none may be so here: earlier
    versions computed in the checkpoint's.
    """
    keys = {*recorded, COMPUTE} - {"threads"}
    alike = (here.get(key) == recorded.get(key) for key in keys)
    return int(recorded["threads"]) <= _most_threads() and all(alike)


@contextmanager
def threads_of(recorded: Platform) -> Iterator[None]:
    """A block that computes with as many threads as `recorded` did, since bits depend on it.

    It uses at most `_most_threads`; above that, `same_platform` is False.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(int(recorded["threads"]), _most_threads()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _most_threads() -> int:
    """Enough that a small machine can repeat the work of a large one of its kind bit for bit."""
    return max(256, 4 * (os.cpu_count() or 1))


def _name(device: torch.device) -> str:
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return name(device) if name else _processor()  # Apple's GPUs are parts of a processor


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
