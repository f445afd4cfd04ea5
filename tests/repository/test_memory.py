"""Too little memory, of a GPU or of the machine."""

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import write_data

from niwfctl.backbone.sites import decoder_layers
from niwfctl.backbone.support import require_supported
from niwfctl.errors import MemoryFull, of_device, of_memory
from niwfctl.field.region import Region
from niwfctl.repository import Repository
from niwfctl.repository.backbone import fitting
from niwfctl.repository.model import Model
from niwfctl.repository.regions import load_region

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
    failed = RuntimeError("CUDA error: device-side assert triggered")
    assert of_device(failed) and not of_memory(failed)
    assert not of_device(full.value) and not of_device(other.value)
    assert not of_device(RuntimeError("CUDA error: out of memory"))


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


def test_where_memory_is_full_idle_regions_make_room_and_those_that_act_stay(
    committed: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is memory for two regions: the active one, and one more."""
    for word in ("pear", "plum"):
        committed.train(word, [write_data(tmp_path / f"{word}.jsonl", word=word)], QUICK)
        committed.commit([word], word)
    model = Model(committed)
    fields: list[weakref.ref] = []

    def load(*arguments: object) -> Region:
        if sum(one() is not None for one in fields) >= 2:
            torch.empty(TOO_MUCH)
        return load_region(*arguments)

    monkeypatch.setattr("niwfctl.repository.resident.load_region", load)
    for word in ("pear", "apple", "plum"):
        model.use(word)
        fields.append(weakref.ref(model.adapter.active))
    assert [one() is not None for one in fields] == [False, True, True]
    with pytest.raises(RuntimeError) as full:
        kept = [model.adapter.active, fields[1]()]
        model.use("pear")
    assert of_memory(full.value) and model.adapter.active is kept[0]
