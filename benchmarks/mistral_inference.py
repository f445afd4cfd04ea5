"""Answering with a capability, by routing, in mixed batches and with PEFT, over the backbone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from common import MODULES
from gpu import Machine
from mistral_cells import Results
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GenerationConfig

from niwfctl.repository import Repository
from niwfctl.repository.model import AUTO, Model

ROUNDS = 3
PEFT_RANK = 16
BARE = "bare"
NAMES = ("first", "second")


def inference(repository: Repository, machine: Machine, results: Results) -> None:
    """Prefill and decoding of all sides, and the time to switch."""
    model = Model(repository)
    results.measure("inference", {"step": "first use of a capability"}, lambda: model.use("first"))
    results.measure("inference", {"step": "switch"}, lambda: switching(model, machine))
    for batch in machine.batches:
        for name, choose in niwfctl_sides(model, batch).items():
            work = partial(answering, model, machine, batch, choose)
            results.measure("inference", {"batch": batch, "side": name}, work)
    model.adapter.active = None
    model.adapter.detach()
    config = LoraConfig(r=PEFT_RANK, target_modules=MODULES, task_type="CAUSAL_LM")
    peft = get_peft_model(model.backbone.model, config)
    for batch in machine.batches:
        work = partial(answering_with_peft, peft, machine, batch)
        results.measure("inference", {"batch": batch, "side": "PEFT"}, work)


def switching(model: Model, machine: Machine) -> dict[str, float]:
    """Time to switch between two resident capabilities."""
    for name in NAMES:
        model.use(name)
    took = machine.seconds(lambda: [model.use(name) for _ in range(500) for name in NAMES])
    return {"microseconds": took / 1000 * 1e6}


def niwfctl_sides(model: Model, batch: int) -> dict[str, Callable[[], object]]:
    """What to call for the bare backbone and for each of our ways to answer."""
    return {
        BARE: lambda: model.use(None),
        "given": lambda: model.use("first"),
        "auto": lambda: model.use(AUTO),
        "mixed": lambda: model.use_each([NAMES[row % 2] for row in range(batch)]),
    }


def answering(
    model: Model, machine: Machine, batch: int, choose: Callable[[], object]
) -> dict[str, float]:
    """Times of a way that `choose` sets."""
    tokens = prompts(machine, batch)
    mask = torch.ones_like(tokens, dtype=torch.bool)

    def answer(count: int) -> None:
        with model.adapter.prompts(mask):
            generate(model.backbone.model, tokens, count)

    choose()
    return times(machine, answer)


def answering_with_peft(peft: nn.Module, machine: Machine, batch: int) -> dict[str, float]:
    """Times of an unmerged LoRA on all layers."""
    tokens = prompts(machine, batch)
    return times(machine, lambda count: generate(peft, tokens, count))


def times(machine: Machine, answer: Callable[[int], None]) -> dict[str, float]:
    """Milliseconds of prefill and of each further token, medians of several rounds."""
    answer(2)
    pairs = [
        (machine.seconds(lambda: answer(1)), machine.seconds(lambda: answer(1 + machine.answer)))
        for _ in range(ROUNDS)
    ]
    return {
        "prefill_ms": statistics.median(one for one, _ in pairs) * 1e3,
        "token_ms": statistics.median((all - one) / machine.answer for one, all in pairs) * 1e3,
    }


def prompts(machine: Machine, batch: int) -> Tensor:
    """Random bytes, int64 [batch, tokens]."""
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, machine.prompt), generator=random).to(machine.device)


@torch.no_grad()
def generate(model: nn.Module, tokens: Tensor, count: int) -> None:
    """Greedy tokens, exactly this many."""
    options = GenerationConfig(
        max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
    )
    mask = torch.ones_like(tokens)
    model.generate(input_ids=tokens, attention_mask=mask, generation_config=options)
