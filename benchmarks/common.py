"""What the benchmarks share: the machine, the data, plain PEFT LoRA, and where results go."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from niwfctl.backbone.batch import batched, pad
from niwfctl.backbone.load import Backbone, load, resolve
from niwfctl.backbone.platform import current_platform
from niwfctl.backbone.prompts import Tokens, encode
from niwfctl.backbone.sites import decoder_layers, width
from niwfctl.training.data import read_examples
from niwfctl.training.optimizer import LARGEST_GRADIENT, learning_rate
from niwfctl.training.run import TrainingOptions

RESULTS = Path(__file__).parent.parent / "docs" / "results"
BROAD = ("instruct",)  # trained with --general: they also answer what the base would
LONGEST = 256  # tokens; longer rows are left out on both sides
HELD_OUT = 200  # last rows of each file of shared data
MEASURED = 64  # of these
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def machine() -> dict[str, object]:
    """Where and when a figure was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": current_platform(torch.device("cpu"))["device"],
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "niwfctl")},
    }


def write_results(
    name: str,
    results: dict[str, object],
    table: str,
    script: str | None = None,
    shown: bool = True,
) -> None:
    """Writes figures to docs/results/NAME.json, and a table of them to NAME.md.

    Args:
        script: which made them, if its name differs.
        shown: whether to print the table, too.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = machine()
    made = ", ".join(f"{key} {value}" for key, value in where.items())
    texts = {
        f"{name}.json": json.dumps({"machine": where, **results}, indent=1, ensure_ascii=False),
        f"{name}.md": f"{table.strip()}\n\nMade by `benchmarks/{script or name}.py`: {made}.",
    }
    for file, text in texts.items():
        new = RESULTS / f"{file}.new"  # renamed, so that a kill leaves what was there
        new.write_text(f"{text}\n")
        new.replace(RESULTS / file)
    if shown:
        print(table)


def read_results(name: str) -> dict | None:
    """What `write_results` wrote; None if there is nothing."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def data_folder(path: str) -> Path:
    """A folder with TASK.jsonl files, for argparse.

    Raises:
        ArgumentTypeError: it has none.
    """
    folder = Path(path)
    if not any(folder.glob("*.jsonl")):
        raise argparse.ArgumentTypeError(f"{path} is no folder with TASK.jsonl files")
    return folder


def embedded() -> Backbone:
    """The embedded backbone in bf16."""
    return load(resolve("smollm2"))


def task_rows(
    backbone: Backbone, file: Path, measured: int = MEASURED
) -> tuple[list[Tokens], list[Tokens]]:
    """(rows to learn from, at most this many held-out rows) of a file, none longer than LONGEST."""
    examples = read_examples([str(file)])
    rows = [encode(backbone.tokenizer, example) for example in examples]
    training = [row for row in rows[:-HELD_OUT] if len(row) <= LONGEST]
    return training, [row for row in rows[-HELD_OUT:] if len(row) <= LONGEST][:measured]


class PeftTrainer:
    """Plain PEFT LoRA with the usual loop: padded batches, labels, the model's own loss."""

    def __init__(
        self,
        model: nn.Module,
        options: TrainingOptions,
        rank: int,
        autocast: bool = False,
        first_layer: int = 0,
    ) -> None:
        """A LoRA of this rank on all linears, scaled like the field.

        Args:
            autocast: multiply its float32 factors in bf16.
            first_layer: index of the first adapted layer; those above are adapted, too.
        """
        torch.manual_seed(options.seed)
        config = LoraConfig(
            r=rank,
            lora_alpha=options.alpha / options.rank * rank,
            target_modules=MODULES,
            layers_to_transform=list(range(first_layer, len(decoder_layers(model)))),
            task_type="CAUSAL_LM",
        )
        self.options = options.for_width(width(model))
        self.model = get_peft_model(model, config)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.0)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=autocast)

    def step(self, rows: Sequence[Tokens], step: int, steps: int) -> float:
        """One optimizer step; returns the loss."""
        with self.autocast:
            loss = self.loss(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT)
        rate = learning_rate(step, steps, self.options.lr, self.options.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def loss(self, rows: Sequence[Tokens]) -> Tensor:
        """Mean over the answers' tokens; without a cache, as Transformers' own trainer has it."""
        return self.model(**collate(rows), use_cache=False).loss

    @torch.no_grad()
    def perplexity(self, rows: Sequence[Tokens]) -> float:
        """On the answers' tokens."""
        return perplexity(self.model, rows)


class PeftAtAnswers(PeftTrainer):
    """PEFT LoRA that computes logits only where a token of an answer is predicted.

    With a `first_layer` it is spared all that niwfctl does not compute either.
    """

    def loss(self, rows: Sequence[Tokens]) -> Tensor:
        """Mean over the answers' tokens."""
        batch = collate(rows)
        return loss_at_answers(self.model.get_base_model(), batch["input_ids"], batch["labels"])


def loss_at_answers(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    """A causal model's own loss, with its output layer applied only where there is a label.

    Args:
        tokens: int64 [rows, length], padded on the right, so that no mask is needed.
        labels: the same with -100 wherever no loss is wanted.
    """
    states = model.get_decoder()(tokens, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != -100
    logits = model.get_output_embeddings()(states[wanted]).float()
    return nn.functional.cross_entropy(logits, labels[:, 1:][wanted])


@torch.no_grad()
def perplexity(model: nn.Module, rows: Sequence[Tokens]) -> float:
    """Perplexity of the answers' tokens, from the model's own loss."""
    total, count = 0.0, 0
    for batch in batched(sorted(rows, key=len), 8):
        answers = sum(len(row.answer) for row in batch)
        total += model(**collate(batch)).loss.item() * answers
        count += answers
    return math.exp(total / count)


def collate(rows: Sequence[Tokens]) -> dict[str, Tensor]:
    """A padded batch as PEFT's users make it."""
    tokens = pad([row.prompt + row.answer for row in rows])
    labels = torch.full_like(tokens, -100)
    mask = torch.zeros_like(tokens)
    for index, row in enumerate(rows):
        labels[index, len(row.prompt) : len(row)] = torch.tensor(row.answer)
        mask[index, : len(row)] = 1
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}
