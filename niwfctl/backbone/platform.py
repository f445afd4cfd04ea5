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
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # on which the kernels depend that cuBLAS chooses
_ROUNDING = {  # of sums within products on CUDA, and torch's default
    "allow_bf16_reduced_precision_reduction": True,
    "allow_bf16_reduced_precision_reduction_split_k": True,
    "allow_fp16_reduced_precision_reduction": True,
    "allow_fp16_reduced_precision_reduction_split_k": True,
    "allow_fp16_accumulation": False,
}
_IF_CHOSEN = {COMPUTE, _WORKSPACE, *_ROUNDING}  # recorded only where they are not the default


def current_platform(device: torch.device, *packages: str) -> Platform:
    """Device, threads, and the versions of torch and other packages that bits may depend on."""
    on_cpu = device.type == "cpu"
    return {
        "torch": torch.__version__,
        **{package: version(package) for package in packages},
        "device": _processor() if on_cpu else _name(device),
        "kernels": torch.backends.cpu.get_cpu_capability() if on_cpu else device.type,
        "threads": torch.get_num_threads(),
    } | chosen_settings(device.type)


def chosen_settings(kind: str) -> dict[str, str]:
    """What bits on a kind of device depend on and was chosen; nothing where all is as by default.

    Results repeat whatever is chosen: torch gives every cuBLAS stream a workspace of its own.
    """
    if kind != "cuda":
        return {}
    workspace = os.environ.get(_WORKSPACE)
    products = torch.backends.cuda.matmul  # of which older torch has fewer settings
    chosen = {name: getattr(products, name, usual) for name, usual in _ROUNDING.items()}
    rounding = {name: str(chosen[name]) for name in chosen if chosen[name] != _ROUNDING[name]}
    return rounding | ({_WORKSPACE: workspace} if workspace else {})


def same_platform(here: Platform, recorded: Platform) -> bool:
    """Whether equal bits can be expected: everything recorded is the same here.

    The thread count can be matched here, so it matters only above `_most_threads`. Where nothing is
    recorded of what may be chosen, nothing may be so here: earlier versions computed 4-bit weights
    in the checkpoint's dtype.
    """
    keys = {*recorded, *_IF_CHOSEN} - {"threads"}
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
