"""The GPU that a benchmark runs on, or a CPU in its place, and how much work it can hold."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from niwfctl.backbone.load import default_device
from niwfctl.backbone.platform import current_platform


@dataclass(frozen=True)
class Machine:
    """Where to run, and how much.

    Attributes:
        quant: quantization of the backbone.
        lengths: (tokens per row, rows per step) to train with.
        batches: prompts to answer at once.
        prompt: tokens in a prompt.
        answer: tokens in an answer.
        steps: training steps to measure, after two to warm up.
    """

    quant: str
    lengths: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    prompt: int
    answer: int
    steps: int

    @classmethod
    def whole(cls) -> Machine:
        """For a 7B model on a GPU of 24 GiB or more."""
        return cls("nf4", ((512, 4), (2048, 1)), (1, 8, 32), 256, 64, 5)

    @classmethod
    def tiny(cls) -> Machine:
        """For a model of 4 layers, on anything."""
        return cls("none", ((32, 2),), (1, 2), 16, 4, 1)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return torch.device(default_device())

    @property
    def name(self) -> str:
        """The name of the GPU, or of the processor."""
        return str(current_platform(self.device)["device"])

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds that work takes until the GPU has finished."""
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    @contextmanager
    def timing(self, into: dict[str, float], key: str) -> Iterator[None]:
        """A block whose seconds are recorded."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        into[key] = time.perf_counter() - started

    def peak_gib(self, work: Callable[[], object]) -> float | None:
        """Peak of the GPU's allocated memory during work, in GiB; None on a CPU."""
        if self.device.type != "cuda":
            work()
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self._wait()
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    def forget(self) -> None:
        """Frees memory that nothing refers to."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
