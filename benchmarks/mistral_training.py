"""Training speed and peak memory of niwfctl and of PEFT QLoRA on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from common import MODULES
from gpu import Machine
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.calibration import default_dim, default_tap_layer
from niwfctl.backbone.load import Backbone, Source, load
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.sites import find_sites
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.training.loop import Trainer
from niwfctl.training.optimizer import LARGEST_GRADIENT, OPTIMIZERS
from niwfctl.training.run import Run, TrainingOptions

RANK = 16  # of PEFT, and of the two bases of rank 8 together


def training(source: Source, machine: Machine) -> dict[str, object]:
    """Tokens a second and peak memory, by length, checkpointing and optimizer."""
    took: dict[str, float] = {}
    for load_it in ("first load", "load"):  # first from 16 bits, then from the kept copy in 4
        backbone = None
        machine.forget()
        with machine.timing(took, load_it):
            backbone = load(source, machine.quant)
    settings = list(product(machine.lengths, (False, True), OPTIMIZERS))
    mine = [field(backbone, machine, *one) for one in settings]
    del backbone
    machine.forget()
    theirs = [qlora(anew(source, machine), machine, *one) for one in settings]
    rows = [
        {
            "length": length,
            "batch": batch,
            "checkpointing": checkpointing,
            "optimizer": optimizer,
            "niwfctl": ours,
            "peft": other,
            "speed": ours["tokens_per_second"] / other["tokens_per_second"],
        }
        for ((length, batch), checkpointing, optimizer), ours, other in zip(
            settings, mine, theirs, strict=True
        )
    ]
    return {"seconds": took, "rows": rows}


def anew(source: Source, machine: Machine) -> Backbone:
    """A backbone for PEFT to change, loaded once the previous one is freed."""
    machine.forget()
    return load(source, machine.quant)


def field(
    backbone: Backbone, machine: Machine, shape: tuple[int, int], again: bool, optimizer: str
) -> dict[str, float]:
    """Our trainer, as `niwfctl train` makes it."""
    model = backbone.model
    dim = default_dim(backbone)
    states = torch.randn(4 * dim, backbone.width)
    sites = find_sites(model, default_tap_layer(backbone))
    options = TrainingOptions(
        steps=100, batch_size=shape[1], optimizer=optimizer, gradient_checkpointing=again
    )
    adapter = FieldAdapter(model, sites, CoordinateMap.fit(states, dim))
    rows = [Tokens(row[: len(row) // 2], row[len(row) // 2 :]) for row in tokens(shape).tolist()]
    trainer = Trainer(adapter, 1, record(options, backbone), rows, rows)

    def step() -> None:
        trainer.step()
        trainer.run.step += 1

    found = measured(machine, step, shape)
    adapter.active = None
    adapter.detach()
    return found


def qlora(
    backbone: Backbone, machine: Machine, shape: tuple[int, int], again: bool, optimizer: str
) -> dict[str, float]:
    """PEFT's, prepared as its documentation says."""
    model = prepare_model_for_kbit_training(
        backbone.model,
        use_gradient_checkpointing=again,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    config = LoraConfig(r=RANK, lora_alpha=32, target_modules=MODULES, task_type="CAUSAL_LM")
    model = get_peft_model(model, config).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    chosen = OPTIMIZERS[optimizer](parameters)
    ids = tokens(shape).to(machine.device)
    labels = ids.clone()
    labels[:, : shape[0] // 2] = -100

    def step() -> None:
        with torch.autocast(machine.device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        chosen.step()
        chosen.zero_grad()

    return measured(machine, step, shape)


def measured(
    machine: Machine, step: Callable[[], None], shape: tuple[int, int]
) -> dict[str, float]:
    """Speed and peak memory of steps after two to warm up.

    The first creates the optimizer's moments, the second allocates its memory on the device again.
    """
    step()
    machine.forget()
    step()
    took: dict[str, float] = {}

    def steps() -> None:
        with machine.timing(took, "steps"):
            for _ in range(machine.steps):
                step()

    peak = machine.peak_gib(steps)
    speed = shape[0] * shape[1] * machine.steps / took["steps"]
    return {"tokens_per_second": speed, "peak_gib": peak}


def tokens(shape: tuple[int, int]) -> Tensor:
    """Rows of random bytes, int64 [rows, length]; half of each is the answer."""
    length, rows = shape
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(0))


def record(options: TrainingOptions, backbone: Backbone) -> Run:
    """A run's record; only its options matter here."""
    return Run(
        id="benchmark",
        name="benchmark",
        sources=[],
        data_hash="",
        rows=options.batch_size,
        held_out_rows=0,
        options=options.for_width(backbone.width),
        backbone=backbone.identity,
        coordinates="",
        versions={},
        steps=options.steps,
    )
