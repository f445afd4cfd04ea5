"""Training, decoding and switching against plain PEFT LoRA and the bare backbone, as ratios.

    python benchmarks/speed.py DATA_FILE [--rounds 7]

Sides take turns in every round, so that a busy machine slows all of them equally. Every figure is
the median of the rounds' ratios, never a ratio of medians, with the lowest and the highest of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from common import MODULES, PeftAtAnswers, PeftTrainer, embedded, markdown, write_results
from peft import LoraConfig, get_peft_model
from quality import TAP_LAYER, new_trainer
from torch import nn
from transformers import GenerationConfig

from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.sites import decoder_layers
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.training.loop import Trainer
from niwfctl.training.run import TrainingOptions

RANK = 16  # of PEFT, and of the two bases of rank 8 together
STEPS = 4  # training steps a round
DECODED = 48  # tokens a round
PROMPT = 64  # tokens
OPTIONS = TrainingOptions(steps=1000, seed=0)
_AS_USUAL = partial(PeftTrainer, options=OPTIONS, rank=RANK)
_SPARED = partial(PeftAtAnswers, options=OPTIONS, rank=RANK, first_layer=TAP_LAYER)
PEFT: dict[str, Callable[[nn.Module], PeftTrainer]] = {
    "peft": _AS_USUAL,
    "peft_autocast": partial(_AS_USUAL, autocast=True),
    "peft_same": _SPARED,
    "peft_same_autocast": partial(_SPARED, autocast=True),
}
ROWS = {  # titles, with the names of a side in training and in decoding
    "niwfctl": ("niwfctl", "niwfctl"),
    "PEFT": ("peft", "peft"),
    "PEFT in bf16": ("peft_autocast", "peft_bf16"),
    "PEFT, same layers, loss at answer tokens only": ("peft_same", "peft_same"),
    "the same in bf16": ("peft_same_autocast", "peft_same_bf16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    results = {
        "training": training(arguments.data, arguments.rounds),
        "decoding": decoding(3 * arguments.rounds),  # each is short, and varies more
        "switching": switching(),
    }
    write_results("speed", results, table_of(results))


def training(file: Path, rounds: int) -> dict[str, object]:
    """Tokens a second of both sides on the same batches."""
    ours = new_trainer(file, OPTIONS)
    rows = ours.training
    theirs = {name: make(embedded().model) for name, make in PEFT.items()}
    batches = iter(
        [[rows[index] for index in ours.rows_of(step)] for step in range((rounds + 1) * STEPS)]
    )
    speeds: dict[str, list[float]] = {name: [] for name in ("niwfctl", *theirs)}
    for number in range(rounds + 1):
        chunk = [next(batches) for _ in range(STEPS)]
        tokens = sum(len(row) for batch in chunk for row in batch)
        took = {"niwfctl": seconds(lambda: our_steps(ours))}
        for name, side in theirs.items():
            took[name] = seconds(lambda side=side, chunk=chunk: their_steps(side, chunk))
        if number:  # the first round warms up
            for name, elapsed in took.items():
                speeds[name].append(tokens / elapsed)
    ratios = {
        name: [mine / other for mine, other in zip(speeds["niwfctl"], speeds[name], strict=True)]
        for name in theirs
    }
    return {
        "tokens_per_second": speeds,
        "ratio": {name: statistics.median(found) for name, found in ratios.items()},
        "rounds": ratios,
    }


def decoding(rounds: int) -> dict[str, object]:
    """Seconds of greedy generation, over the bare backbone's."""
    bare, peft = embedded().model, peft_decoders()
    with tempfile.TemporaryDirectory() as folder:
        model = small_repository(Path(folder)).load("first")
        tokens = torch.randint(0, 40000, (1, PROMPT), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(tokens, dtype=torch.bool)

        def field() -> None:
            with model.adapter.prompts(mask):
                decode(model.backbone.model, tokens)

        sides = {"niwfctl": field}
        sides |= {name: partial(decode, side, tokens) for name, side in peft.items()}
        ratios: dict[str, list[float]] = {name: [] for name in sides}
        references: list[float] = []
        for number in range(rounds + 1):
            references.append(seconds(lambda: decode(bare, tokens)))
            for name, side in sides.items():
                ratio = seconds(side) / references[-1]
                if number:  # the first round warms up
                    ratios[name].append(ratio)
    return {
        "bare_ms_per_token": statistics.median(references[1:]) / DECODED * 1e3,
        "ratio": {name: statistics.median(found) for name, found in ratios.items()},
        "rounds": ratios,
    }


def peft_decoders() -> dict[str, nn.Module]:
    """Backbones with untrained LoRAs on all layers or on niwfctl's, with factors in both dtypes."""
    found = {}
    for name, first_layer in (("peft", 0), ("peft_same", TAP_LAYER)):
        for suffix, in_float32 in (("", True), ("_bf16", False)):
            model = embedded().model
            layers = list(range(first_layer, len(decoder_layers(model))))
            config = LoraConfig(
                r=RANK, target_modules=MODULES, layers_to_transform=layers, task_type="CAUSAL_LM"
            )
            found[name + suffix] = get_peft_model(model, config, autocast_adapter_dtype=in_float32)
    return found


def switching(times: int = 1000) -> dict[str, float]:
    """Seconds to switch between two resident capabilities."""
    with tempfile.TemporaryDirectory() as folder:
        model = small_repository(Path(folder)).load("first")
        model.use("second")
        elapsed = seconds(lambda: [model.use(n) for _ in range(times) for n in ("first", "second")])
    return {"seconds": elapsed / (2 * times)}


def our_steps(trainer: Trainer) -> None:
    for _ in range(STEPS):
        trainer.step()
        trainer.run.step += 1


def their_steps(trainer: PeftTrainer, batches: Sequence[Sequence[Tokens]]) -> None:
    for number, batch in enumerate(batches):
        trainer.step(batch, number, OPTIONS.steps)


def small_repository(folder: Path) -> Repository:
    """Two capabilities of one step each: enough to switch between and to decode with."""
    data = folder / "data.jsonl"
    rows = ({"prompt": f"Say {word}.", "completion": word} for word in ("yes", "no", "now", "on"))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    repository = Repository.init(folder / "repository")
    for name in ("first", "second"):
        repository.train(name, [data], TrainingOptions(steps=1, val_split=0.5))
    repository.commit((), "Two", RoutingOptions(accept_shadow=True))
    return repository


def decode(model: nn.Module, tokens: torch.Tensor) -> None:
    options = GenerationConfig(
        max_new_tokens=DECODED, min_new_tokens=DECODED, do_sample=False, pad_token_id=2
    )
    with torch.no_grad():
        model.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=options
        )


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table_of(results: dict) -> str:
    train, decode = results["training"], results["decoding"]
    rows = [
        [title, shown(train["rounds"].get(training)), shown(decode["rounds"][decoding])]
        for title, (training, decoding) in ROWS.items()
    ]
    note = (
        "Medians of the rounds' ratios, with the lowest and highest. niwfctl: 2 bases of rank 8 on "
        f"all linears of layers {TAP_LAYER} up, logits at answer tokens only; it trains "
        f"{statistics.median(train['tokens_per_second']['niwfctl']):.0f} tokens a second. PEFT: "
        f"LoRA of rank {RANK} on all linears of all layers, logits at all tokens, as it is usually "
        "set up; or of the same layers as niwfctl, with a loss of its own that computes logits at "
        "answer tokens only. Decoding is unmerged. PEFT keeps a LoRA's factors in float32 beside a "
        "bf16 model. In bf16: trained under autocast, and decoded from factors in bf16, which "
        "niwfctl's sealed ones are. SmolLM2-135M-Instruct, bf16, 8 rows of at most 256 tokens. "
        f"Decoding: {DECODED} tokens after a prompt of {PROMPT}, the prompt's pass included; the "
        f"bare backbone takes {decode['bare_ms_per_token']:.1f} ms a token. Switching a resident "
        f"capability takes {results['switching']['seconds'] * 1e6:.1f} µs."
    )
    columns = ["", "training: niwfctl's tokens/s over its", "decoding, over the bare backbone"]
    return markdown(columns, rows) + "\n\n" + note


def shown(ratios: Sequence[float] | None) -> str:
    """The median of rounds, with the lowest and highest; empty for a side over itself."""
    if ratios is None:
        return ""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
