"""What a program around chooses for products of float32 changes neither coordinates nor gates."""

from collections.abc import Callable, Iterator
from threading import Barrier, Thread

import pytest
import torch

from niwfctl.field.coordinates import CoordinateMap, pool
from niwfctl.field.generator import Generator
from niwfctl.field.precision import chosen_precision, full_precision

CUDA, CPU = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
CHOICES: dict[str, Callable[[], object]] = {
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "allow_tf32": lambda: setattr(CUDA, "allow_tf32", True),
    "all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "one": lambda: setattr(CUDA, "fp32_precision", "tf32"),
    "both ways": lambda: (
        torch.set_float32_matmul_precision("high"),
        setattr(CUDA, "fp32_precision", "ieee"),
    ),
}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    for one in (torch.backends, CUDA, CPU):
        one.fp32_precision = "none"


def settings() -> list[object]:
    found: list[object] = [torch.backends.fp32_precision, CUDA.fp32_precision, CPU.fp32_precision]
    for ask in (torch.get_float32_matmul_precision, lambda: CUDA.allow_tf32):
        try:
            found.append(ask())
        except RuntimeError:  # torch refuses where two settings contradict each other
            found.append("refused")
    return found


@pytest.mark.parametrize("choice", CHOICES)
def test_in_a_block_of_full_precision_nothing_is_rounded_and_after_it_all_is_as_chosen(
    choice: str,
) -> None:
    CHOICES[choice]()
    chosen = settings()
    with full_precision():
        assert [chosen_precision(kind) for kind in ("cuda", "cpu")] == [None, None]
        assert settings()[1:] == ["ieee", "ieee", "highest", False]
    assert settings() == chosen


def test_after_a_block_what_followed_a_general_choice_still_does() -> None:
    torch.backends.fp32_precision = "tf32"
    with full_precision():
        pass
    torch.backends.fp32_precision = "none"
    assert [CUDA.fp32_precision, CPU.fp32_precision] == ["none", "none"]


def test_the_last_of_several_threads_restores_what_was_chosen() -> None:
    torch.set_float32_matmul_precision("high")
    both = Barrier(2)
    seen = []

    def first() -> None:
        with full_precision():
            both.wait()
        both.wait()

    thread = Thread(target=first)
    thread.start()
    both.wait()  # the thread is in its block
    with full_precision():
        both.wait()  # and now it has left it
        thread.join()
        seen.append(chosen_precision("cuda"))
    assert [*seen, chosen_precision("cuda")] == [None, "tf32"]


def test_the_chosen_precision_of_a_device_is_told() -> None:
    assert [chosen_precision(kind) for kind in ("cuda", "cpu", "xpu")] == [None] * 3
    torch.set_float32_matmul_precision("medium")
    assert [chosen_precision(kind) for kind in ("cuda", "cpu", "xpu")] == ["tf32", "bf16", "bf16"]


def test_coordinates_and_gates_have_the_same_bits_whatever_was_chosen() -> None:
    random = torch.Generator().manual_seed(0)
    states = torch.randn(4, 24, 576, generator=random)
    mask = torch.ones(4, 24, dtype=torch.bool)
    projection = torch.randn(32, 576, generator=random)
    to_z, generator = CoordinateMap(torch.zeros(576), projection), Generator(32, 26, 2)
    torch.nn.init.normal_(generator.outer.weight)

    def found() -> list[torch.Tensor]:
        pooled = pool(states, mask)
        z = to_z(pooled)
        return [pooled, z, generator(z)]

    before = found()
    torch.set_float32_matmul_precision("medium")
    assert all(torch.equal(*pair) for pair in zip(before, found(), strict=True))
