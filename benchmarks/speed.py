"""Training, decoding and switching against plain PEFT LoRA and the bare backbone, as ratios.

    python benchmarks/speed.py DATA_FILE [--rounds 7]

Sides take turns in every round, so that a busy machine slows all of them equally; the figure is the
median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from common import PeftTrainer, embedded, markdown, write_results
from quality import new_trainer
from torch import nn
from transformers import GenerationConfig

from niwfctl.backbone.prompts import Tokens
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.training.loop import Trainer
from niwfctl.training.run import TrainingOptions

RANK = 16  # of PEFT, and of the two bases of rank 8 together
STEPS = 4  # training steps a round
DECODED = 48  # tokens a round
PROMPT = 64  # tokens
OPTIONS = TrainingOptions(steps=1000, seed=0)


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
    theirs = {
        "peft": PeftTrainer(embedded().model, OPTIONS, RANK),
        "peft_autocast": PeftTrainer(embedded().model, OPTIONS, RANK, autocast=True),
    }
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
        "tokens_per_second": {name: statistics.median(found) for name, found in speeds.items()},
        "ratio": {name: statistics.median(found) for name, found in ratios.items()},
        "rounds": ratios,
    }


def decoding(rounds: int) -> dict[str, object]:
    """Seconds of greedy generation, over the bare backbone's."""
    from peft import LoraConfig, get_peft_model

    bare = embedded().model
    config = LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    peft = get_peft_model(embedded().model, config)
    peft_bf16 = get_peft_model(embedded().model, config, autocast_adapter_dtype=False)
    with tempfile.TemporaryDirectory() as folder:
        model = small_repository(Path(folder)).load("first")
        tokens = torch.randint(0, 40000, (1, PROMPT), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(tokens, dtype=torch.bool)

        def field() -> None:
            with model.adapter.prompts(mask):
                decode(model.backbone.model, tokens)

        sides = {
            "niwfctl": field,
            "peft": lambda: decode(peft, tokens),
            "peft_bf16": lambda: decode(peft_bf16, tokens),
        }
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
    train, decode = results["training"], results["decoding"]["ratio"]
    speeds = train["tokens_per_second"]
    rows = [
        ["training, tokens/s", *(f"{speeds[name]:.0f}" for name in speeds)],
        [
            "niwfctl's over it",
            "",
            f"{train['ratio']['peft']:.2f}",
            f"{train['ratio']['peft_autocast']:.2f}",
        ],
        [
            "decoding over the bare backbone",
            f"{decode['niwfctl']:.2f}",
            f"{decode['peft']:.2f}",
            f"{decode['peft_bf16']:.2f}",
        ],
        ["switching, µs", f"{results['switching']['seconds'] * 1e6:.1f}", "", ""],
    ]
    note = (
        "PEFT keeps a LoRA's factors in float32 beside a bf16 model. In bf16: trained under "
        "autocast, and decoded from factors in bf16, which niwfctl's sealed ones are. "
        "PEFT: LoRA of rank 16 on all linears of all layers, unmerged. niwfctl: 2 bases of rank 8 "
        "on all linears of layers 4 up. SmolLM2-135M-Instruct, bf16, 8 rows of at most 256 tokens. "
        f"Decoding: {DECODED} tokens after a prompt of {PROMPT}, the prompt's pass included; the "
        f"bare backbone takes {results['decoding']['bare_ms_per_token']:.1f} ms a token."
    )
    return markdown(["", "niwfctl", "PEFT", "PEFT in bf16"], rows) + "\n\n" + note


if __name__ == "__main__":
    main()
