"""Training speed and peak memory of niwfctl and of PEFT QLoRA on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from common import MODULES, loss_at_answers
from gpu import Machine
from mistral_cells import Results
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.calibration import default_dim, default_tap_layer
from niwfctl.backbone.load import Backbone, Source, load
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.sites import decoder_layers, find_sites
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.training.loop import Trainer
from niwfctl.training.optimizer import LARGEST_GRADIENT, OPTIMIZERS
from niwfctl.training.run import Run, TrainingOptions

RANK = 16  # of PEFT, and of the two bases of rank 8 together
OURS, USUAL, SAME = "niwfctl", "PEFT", "PEFT, same layers, loss at answer tokens only"


def training(source: Source, machine: Machine, results: Results) -> None:
    """Tokens a second and peak memory, by length, checkpointing and optimizer.

    All of niwfctl's cells come first, since PEFT puts the norms, embeddings and output layer of
    its backbone into float32.
    """
    loaded: list[Backbone] = []
    if not results.measure(
        "training", {"step": "load"}, lambda: loaded.append(load(source, machine.quant))
    ):
        return
    (backbone,) = loaded
    sides = {OURS: field, USUAL: qlora, SAME: partial(qlora, same_work=True)}
    for side, train in sides.items():
        for shape, again, optimizer in product(machine.lengths, (False, True), OPTIMIZERS):
            setting = {
                "side": side,
                "length": shape[0],
                "batch": shape[1],
                "checkpointing": again,
                "optimizer": optimizer,
            }
            work = partial(train, backbone, machine, shape, again, optimizer)
            results.measure("training", setting, work)


def field(
    backbone: Backbone, machine: Machine, shape: tuple[int, int], again: bool, optimizer: str
) -> dict[str, float | None]:
    """Our trainer, as `niwfctl train` makes it."""
    model = backbone.model
    dim = default_dim(backbone)
    coordinates = CoordinateMap.fit(torch.randn(4 * dim, backbone.width), dim)
    options = TrainingOptions(
        steps=100, batch_size=shape[1], optimizer=optimizer, gradient_checkpointing=again
    )
    rows = [Tokens(row[: len(row) // 2], row[len(row) // 2 :]) for row in tokens(shape).tolist()]
    adapter = FieldAdapter(model, find_sites(model, default_tap_layer(backbone)), coordinates)
    try:
        trainer = Trainer(adapter, 1, record(options, backbone), rows, rows)

        def step() -> None:
            trainer.step()
            trainer.run.step += 1

        return measured(machine, step, shape)
    finally:
        adapter.active = None
        adapter.detach()


def qlora(
    backbone: Backbone,
    machine: Machine,
    shape: tuple[int, int],
    again: bool,
    optimizer: str,
    same_work: bool = False,
) -> dict[str, float | None]:
    """PEFT's, prepared as its documentation says; the backbone is without it afterwards.

    Args:
        same_work: adapt the layers that niwfctl does, with logits where it has them.
    """
    ids = tokens(shape).to(machine.device)
    labels = ids.clone()
    labels[:, : shape[0] // 2] = -100
    model = prepare_model_for_kbit_training(
        backbone.model,
        use_gradient_checkpointing=again,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    first_layer = default_tap_layer(backbone) if same_work else 0
    config = LoraConfig(
        r=RANK,
        lora_alpha=32,
        target_modules=MODULES,
        layers_to_transform=list(range(first_layer, len(decoder_layers(model)))),
        task_type="CAUSAL_LM",
    )
    peft = get_peft_model(model, config).train()
    try:
        parameters = [p for p in peft.parameters() if p.requires_grad]
        chosen = OPTIMIZERS[optimizer](parameters)

        def loss() -> Tensor:
            if same_work:
                return loss_at_answers(model, ids, labels)
            return peft(input_ids=ids, labels=labels, use_cache=False).loss

        def step() -> None:
            with torch.autocast(machine.device.type, torch.bfloat16):
                nats = loss()
            nats.backward()
            nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
            chosen.step()
            chosen.zero_grad()

        return measured(machine, step, shape)
    finally:
        peft.unload().eval()
        model.gradient_checkpointing_disable()


def measured(
    machine: Machine, step: Callable[[], None], shape: tuple[int, int]
) -> dict[str, float | None]:
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
