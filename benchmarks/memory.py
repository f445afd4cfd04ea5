"""Peak memory of training, niwfctl against plain PEFT LoRA, each in a process of its own.

python benchmarks/memory.py DATA_FILE
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from common import embedded, markdown, task_rows, write_results
from quality import new_trainer
from speed import OPTIONS, PEFT, STEPS, our_steps, seconds, their_steps

SIDES = {
    "niwfctl": "niwfctl",
    "checkpointing": "niwfctl, `--gradient-checkpointing`",
    "peft": "PEFT",
    "peft_autocast": "PEFT, under autocast to bf16",
    "peft_same": "PEFT, same layers, loss at answer tokens only",
    "peft_same_autocast": "the same, under autocast to bf16",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=SIDES, help="one side, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(peak_memory(arguments.data, arguments.only)))
        return
    found = {side: measured_apart(arguments.data, side) for side in SIDES}
    mine, peft = (found[side]["peak_mib"] for side in ("niwfctl", "peft"))
    ratio = {side: mine / found[side]["peak_mib"] for side in PEFT}
    table = markdown(
        ["", "peak of the process, MiB", "over PEFT's", "niwfctl's over it", "seconds"],
        [
            [
                title,
                f"{found[side]['peak_mib']:.0f}",
                f"{found[side]['peak_mib'] / peft:.2f}",
                f"{mine / found[side]['peak_mib']:.2f}",
                f"{found[side]['seconds']:.1f}",
            ]
            for side, title in SIDES.items()
        ],
    )
    table += f"\n\n{STEPS} training steps of 8 rows, each side in a process of its own."
    write_results("memory", {"ratio": ratio, "sides": found}, table)


def peak_memory(file: Path, side: str) -> dict[str, float]:
    """Peak of this process over a few training steps, in MiB, and how much the steps add."""
    if side in PEFT:
        backbone = embedded()
        rows, _ = task_rows(backbone, file)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
        theirs = PEFT[side](backbone.model)
        loaded = peak()
        batches = [[rows[i] for i in order[n * 8 : n * 8 + 8]] for n in range(STEPS)]
        took = seconds(lambda: their_steps(theirs, batches))
    else:
        again = {"gradient_checkpointing": side == "checkpointing"}
        ours = new_trainer(file, OPTIONS.model_copy(update=again))
        loaded = peak()
        took = seconds(lambda: our_steps(ours))
    return {"peak_mib": peak(), "training_mib": peak() - loaded, "seconds": took}


def measured_apart(file: Path, side: str) -> dict[str, float]:
    command = [sys.executable, __file__, str(file), "--only", side]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def peak() -> float:
    """MiB. Not getrusage's figure, which a process inherits from a larger parent."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
