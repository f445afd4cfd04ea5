"""Gradient checkpointing and 8-bit moments: less memory, the same training."""

import gc
import json
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import save_tiny
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from niwfctl.backbone import scoring
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.sites import decoder_layers
from niwfctl.errors import MemoryFull, TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.repository.model import Model
from niwfctl.repository.runs import encoded, new_run
from niwfctl.training.checkpoint import load
from niwfctl.training.data import read_examples
from niwfctl.training.loop import Progress, Trainer
from niwfctl.training.rehearsal import rehearse
from niwfctl.training.run import TrainingOptions


def trainer_of(repository: Repository, data: Path, options: TrainingOptions) -> Trainer:
    model = Model(repository)
    rows = encoded(model, read_examples([str(data)]), options)
    run = new_run(model, "apple", [], "", rows, options, steps=2)
    return Trainer(model.adapter, model.skip, run, rows.training, rows.held_out)


def kept_for_the_gradient(trainer: Trainer) -> int:
    """Bytes of the activations that one forward pass keeps."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.requires_grad or tensor.grad_fn is not None or tensor.dim() == 3:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.adapter.active = trainer.field()
        trainer.scorer.loss(trainer.training[:4])
    return sum(kept.values())


def activations() -> set[int]:
    """Those that are alive and part of a graph."""
    tensors = (one for one in gc.get_objects() if issubclass(type(one), Tensor))
    return {id(one) for one in tensors if one.grad_fn is not None and one.dim() == 3}


def test_checkpointed_layers_give_the_same_training_bit_for_bit(
    fresh: Repository, data: Path
) -> None:
    sparing = QUICK.model_copy(update={"gradient_checkpointing": True})
    plain, again = trainer_of(fresh, data, QUICK), trainer_of(fresh, data, sparing)
    for step in range(2):
        assert plain.step() == again.step()
        plain.run.step = again.run.step = step + 1
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_checkpointed_layers_keep_less(fresh: Repository, data: Path) -> None:
    sparing = QUICK.model_copy(update={"gradient_checkpointing": True})
    plain = kept_for_the_gradient(trainer_of(fresh, data, QUICK))
    assert kept_for_the_gradient(trainer_of(fresh, data, sparing)) < plain / 2


def test_checkpointed_layers_keep_less_while_bases_to_reuse_are_chosen(
    committed: Repository, data: Path
) -> None:
    def kept(options: TrainingOptions) -> int:
        total = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.untyped_storage().nbytes() if tensor.dim() == 3 else 0
            return tensor

        def report(progress: Progress) -> None:
            if progress.stage == "measuring the base":  # bases are chosen
                raise InterruptedError

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            pytest.raises(InterruptedError),
        ):
            committed.train("pear", [data], options, report=report)
        return total

    choosing = QUICK.model_copy(update={"reuse": ("auto",)})
    sparing = choosing.model_copy(update={"gradient_checkpointing": True})
    assert 0 < kept(sparing) < kept(choosing) / 2


def test_logits_of_long_answers_are_computed_in_parts_with_the_same_gradients(
    fresh: Repository, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = trainer_of(fresh, data, QUICK), trainer_of(fresh, data, QUICK)
    most, all_at_once = kept_for_the_gradient(whole), whole.step()
    vocabulary = whole.adapter.model.config.vocab_size
    monkeypatch.setattr(scoring, "LOGITS", 5 * vocabulary)
    kept, in_parts = kept_for_the_gradient(parted), parted.step()
    answers = sum(len(row.answer) for row in whole.training[:4])
    assert most - kept > 0.8 * answers * vocabulary * 4  # the logits, in float32
    assert in_parts == (pytest.approx(all_at_once[0]), all_at_once[1])
    for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_rehearsal_meets_the_largest_batch_of_all_steps_and_leaves_no_trace(
    fresh: Repository, data: Path
) -> None:
    options = QUICK.model_copy(update={"batch_size": 2, "grad_accum": 2})
    plain, rehearsed = trainer_of(fresh, data, options), trainer_of(fresh, data, options)
    met, loss = [], rehearsed.scorer.loss

    def noted(rows: list[Tokens]) -> tuple[Tensor, int]:
        met.append(len(rows) * max(map(len, rows)))
        return loss(rows)

    rehearsed.scorer.loss = noted
    rows = rehearse(rehearsed)
    largest = len(rows) * max(map(len, rows))
    assert met == [largest] and all(one.grad is None for one in rehearsed.parameters())
    for step in range(2):
        assert plain.step() == rehearsed.step()
        plain.run.step = rehearsed.run.step = step + 1
    assert max(met[1:]) == largest
    for one, other in zip(plain.parameters(), rehearsed.parameters(), strict=True):
        assert torch.equal(one, other)


class Peak(TorchDispatchMode):
    """The most bytes of tensors made in a block that were alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._now, self._alive, self.most = 0, set(), 0

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in self._alive:
                self._add(one.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._alive.add(storage._cdata)
        self._now += storage.nbytes()
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, storage: int, size: int) -> None:
        self._alive.discard(storage)
        self._now -= size


@pytest.mark.parametrize("sparing", [False, True])
def test_a_batch_of_long_answers_is_rehearsed_if_it_takes_more_than_one_of_long_prompts(
    tmp_path: Path, sparing: bool
) -> None:
    """The vocabulary is as large beside the layers as on real backbones, or larger."""
    backbone = save_tiny(tmp_path / "backbone", vocab_size=2600)
    repository = Repository.init(tmp_path / "repository", model=str(backbone), dim=8)
    pairs = [(f"{i} " + "long " * 40, "a") for i in range(5)]
    pairs += [(f"{i} short", "b" * 180) for i in range(5)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
    how = {"batch_size": 1, "grad_accum": 8, "val_split": 0.2, "gradient_checkpointing": sparing}
    trainer = trainer_of(repository, data, QUICK.model_copy(update=how))
    rehearsed, taken = rehearse(trainer), {}
    for row in trainer.training:
        with Peak() as peak:
            trainer.scorer.loss([row])[0].backward()
        taken[len(row), len(row.answer)] = peak.most
    (row,) = rehearsed
    assert taken[len(row), len(row.answer)] == max(taken.values())
    assert len(row) < max(len(one) for one in trainer.training)


def test_memory_that_will_not_suffice_is_told_with_the_size_of_the_largest_batch(
    fresh: Repository, data: Path
) -> None:
    trainer = trainer_of(fresh, data, QUICK)
    longest = max(map(len, trainer.training))
    last = decoder_layers(trainer.adapter.model)[-1]
    handle = last.register_forward_pre_hook(lambda *_: torch.empty(2**50) and None)
    with pytest.raises(MemoryFull, match=f"4 rows of {longest} tokens: .* --batch-size"):
        rehearse(trainer)
    handle.remove()
    assert all(one.grad is None for one in trainer.parameters())


def storages_alive(more: Iterable[Tensor | None] = ()) -> dict[int, UntypedStorage]:
    """The memory of the tensors that no graph made, and of `more`, by its place.

    Who keeps it keeps the memory too, so that no later tensor is found at the same place.
    """
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    leaves = [one for one in (*tensors, *more) if one is not None and one.grad_fn is None]
    return {(held := one.untyped_storage()).data_ptr(): held for one in leaves}


def bytes_since(before: dict[int, UntypedStorage], now: dict[int, UntypedStorage]) -> int:
    return sum(held.nbytes() for place, held in now.items() if place not in before)


@pytest.mark.parametrize("optimizer", ["adamw", "paged_adamw_8bit"])
@pytest.mark.parametrize("grad_accum", [1, 2])
def test_a_rehearsal_takes_the_memory_of_gradients_and_moments_and_gives_it_back(
    fresh: Repository, data: Path, optimizer: str, grad_accum: int
) -> None:
    how = {"batch_size": 2, "grad_accum": grad_accum, "optimizer": optimizer, "rank": 64}
    trainer = trainer_of(fresh, data, QUICK.model_copy(update=how))
    taken, loss = [], trainer.scorer.loss

    def noted(rows: list[Tokens]) -> tuple[Tensor, int]:
        gradients = (parameter.grad for parameter in trainer.parameters())
        taken.append(bytes_since(before, storages_alive(gradients)))
        return loss(rows)

    trainer.scorer.loss, before = noted, storages_alive()
    rehearse(trainer)
    left = bytes_since(before, storages_alive())
    assert left < taken[0] / 100 and not trainer.optimizer.state  # the last batch's coordinates
    trainer.scorer.loss = loss
    trainer.step()
    numbers = [parameter.numel() for parameter in trainer.parameters()]
    moments = [
        value.nbytes
        for state in trainer.optimizer.state.values()
        for key, value in state.items()
        if key not in ("step", "qmap1", "qmap2")
    ]
    assert (sum(moments) == 8 * sum(numbers)) == (optimizer == "adamw")
    assert taken == [sum(moments) + (grad_accum > 1) * 4 * sum(numbers)]
    trainer.scorer.loss, before = noted, storages_alive()
    rehearse(trainer)
    assert taken[1:] == [taken[0] - sum(moments)]  # they are there now


@pytest.mark.parametrize("quant", ["none", "nf4"])
@pytest.mark.parametrize("sparing", [False, True])
def test_no_activation_outlives_its_step(
    tmp_path: Path, backbone: Path, data: Path, quant: str, sparing: bool
) -> None:
    repository = Repository.init(tmp_path / quant, model=str(backbone), quant=quant, dim=8)
    options = QUICK.model_copy(update={"gradient_checkpointing": sparing})
    trainer = trainer_of(repository, data, options)
    before = activations()
    trainer.step()
    assert activations() <= before


def test_8_bit_moments_train_and_resume_to_the_same_bits(
    fresh: Repository, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    large = {"rank": 64}  # moments of fewer than 4,096 numbers stay in 32 bits
    options = QUICK.model_copy(update={"optimizer": "paged_adamw_8bit", **large})
    run = fresh.train("straight", [data], options)
    assert run.perplexity < run.base_perplexity
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == 2

    with pytest.raises(TrainingInterrupted):
        fresh.train("resumed", [data], options, stop=stop)
    fresh.train("resumed", resume=True)
    _, straight = load(fresh.trainings.checkpoint("straight"))
    _, resumed = load(fresh.trainings.checkpoint("resumed"))
    for key, value in straight.items():
        assert torch.equal(resumed[key].nan_to_num(), value.nan_to_num()), key
