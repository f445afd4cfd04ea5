"""Too little memory, of a GPU or of the machine."""

from collections.abc import Callable

import pytest
import torch

from niwfctl.backbone.sites import decoder_layers
from niwfctl.backbone.support import require_supported
from niwfctl.errors import MemoryFull, of_memory
from niwfctl.repository import Repository
from niwfctl.repository.backbone import fitting
from niwfctl.repository.model import Model

TOO_MUCH = 2**50


def fails_when(true: Callable[[], object]) -> Callable[..., None]:
    """A hook that asks for more memory than there is, where something is true."""

    def hook(*_: object) -> None:
        if true():
            torch.empty(TOO_MUCH)

    return hook


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),  # an AcceleratorError, where torch has it
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_an_error_of_memory_is_known_whichever_library_meets_it(error: Exception) -> None:
    assert of_memory(error)


def test_other_errors_are_not_taken_for_errors_of_memory() -> None:
    with pytest.raises(RuntimeError) as full:
        torch.empty(TOO_MUCH)
    with pytest.raises(RuntimeError) as other:
        torch.empty(2) @ torch.empty(3)
    assert of_memory(full.value) and not of_memory(other.value)
    assert not of_memory(RuntimeError("CUDA error: device-side assert triggered"))


@pytest.mark.parametrize(("quant", "way"), [("none", "--quant nf4"), ("nf4", "a smaller one")])
def test_a_backbone_that_does_not_fit_is_told_how_it_may(quant: str, way: str) -> None:
    with pytest.raises(MemoryFull, match=way), fitting(quant):
        torch.empty(TOO_MUCH)
    with pytest.raises(RuntimeError, match="inconsistent"), fitting(quant):
        torch.empty(2) @ torch.empty(3)


def test_an_architecture_is_not_called_unsupported_for_want_of_memory(
    committed: Repository,
) -> None:
    model = Model(committed)
    last = decoder_layers(model.backbone.model)[-1]
    last.register_forward_pre_hook(fails_when(lambda: model.adapter.active))
    with pytest.raises(RuntimeError) as full:
        require_supported(model.adapter)
    assert of_memory(full.value)
