"""Answering with a capability, by routing, in mixed batches and with PEFT, over the backbone."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from common import MODULES
from gpu import Machine
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GenerationConfig

from niwfctl.repository import Repository
from niwfctl.repository.model import AUTO, Model

ROUNDS = 5
PEFT_RANK = 16
NAMES = ("first", "second")


def inference(repository: Repository, machine: Machine) -> dict[str, object]:
    """Prefill and decoding of all sides, and the time to switch."""
    took: dict[str, float] = {}
    model = Model(repository)
    with machine.timing(took, "first use of a capability"):
        model.use("first")
    model.use("second")
    switches = machine.seconds(lambda: [model.use(name) for _ in range(500) for name in NAMES])
    took["switch of a resident capability"] = switches / 1000
    rows = []
    found = {batch: niwfctl_sides(model, machine, batch) for batch in machine.batches}
    model.adapter.active = None
    model.adapter.detach()
    config = LoraConfig(r=PEFT_RANK, target_modules=MODULES, task_type="CAUSAL_LM")
    peft = get_peft_model(model.backbone.model, config)
    for batch, sides in found.items():
        sides["PEFT"] = times(machine, lambda n, b=batch: generate(peft, prompts(machine, b), n))
        for stage, name in enumerate(("prefill", "token")):
            bare = sides["bare"][stage]
            rows.append(
                {
                    "batch": batch,
                    "stage": name,
                    "bare_ms": bare * 1e3,
                    "ratio": {k: v[stage] / bare for k, v in sides.items() if k != "bare"},
                }
            )
    return {"rows": rows, "seconds": took}


def niwfctl_sides(model: Model, machine: Machine, batch: int) -> dict[str, tuple[float, float]]:
    """(seconds of prefill, seconds per token) of the bare backbone and of all our ways."""
    tokens = prompts(machine, batch)
    mask = torch.ones_like(tokens, dtype=torch.bool)

    def answer(count: int) -> None:
        with model.adapter.prompts(mask):
            generate(model.backbone.model, tokens, count)

    def mixed() -> None:
        model.use_each([NAMES[row % 2] for row in range(batch)])

    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: model.use(None),
        "given": lambda: model.use("first"),
        "auto": lambda: model.use(AUTO),
        "mixed": mixed,
    }
    found = {}
    for name, choose in ways.items():
        choose()
        found[name] = times(machine, answer)
    return found


def times(machine: Machine, answer: Callable[[int], None]) -> tuple[float, float]:
    """(seconds of prefill, seconds of each further token), medians of several rounds."""
    answer(2)
    pairs = [
        (machine.seconds(lambda: answer(1)), machine.seconds(lambda: answer(1 + machine.answer)))
        for _ in range(ROUNDS)
    ]
    prefill = statistics.median(one for one, _ in pairs)
    return prefill, statistics.median((all - one) / machine.answer for one, all in pairs)


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
