"""Mistral-7B in 4 bits on one GPU: guarantees, training, inference and switching, against PEFT.

    python benchmarks/mistral7b.py [--model FOLDER_OR_HUB_ID] [--only PART ...] [--keep FOLDER]

Without --model, random weights of the true shapes, with a tokenizer of bytes: that changes no
figure of time or memory, and is noted beside each one. Results are written after every cell. With
--only a run measures some parts, and adds them to the results of earlier runs if machine, versions
and code are the same. --tiny runs all of it on a model of 4 layers in minutes, to see that it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from gpu import Machine
from mistral_cells import PARTS, Results, origin_of
from mistral_guarantees import Session
from mistral_inference import inference
from mistral_table import table
from mistral_training import training
from transformers import AutoModelForCausalLM, MistralConfig

from niwfctl.backbone.load import resolve

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import save_tiny, tiny_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="real weights; the default is random ones")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for weights, to be used again")
    parser.add_argument("--tiny", action="store_true", help="4 layers: does it run?")
    arguments = parser.parse_args()
    machine = Machine.tiny() if arguments.tiny else Machine.whole()
    origin = origin_of(machine, arguments.model or "random")
    name = "mistral7b-tiny" if arguments.tiny else "mistral7b"
    results = Results(name, machine, origin, table)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        os.environ.setdefault("NIWFCTL_CACHE", str(folder / "cache"))
        for role in ("AUTHOR", "COMMITTER"):  # a lent machine's git knows nobody
            os.environ.setdefault(f"GIT_{role}_NAME", "Benchmark")
            os.environ.setdefault(f"GIT_{role}_EMAIL", "benchmark@example.org")
        measure(folder, arguments.model, arguments.only, results, machine)
    print(table(results))
    if results.failed:
        sys.exit("some cells failed, see above")


def measure(
    folder: Path, model: str | None, parts: list[str], results: Results, machine: Machine
) -> None:
    """Measures parts in their order; guarantees come first."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model or str(random_weights(folder, machine))
    results.say("the weights are there")
    session = Session(folder, model, machine)
    work = {
        "guarantees": lambda: session.guarantees(results),
        "training": lambda: training(resolve(model), machine, results),
        "inference": lambda: inference(session.with_two_capabilities(), machine, results),
    }
    for part in PARTS:
        if part in parts:
            results.run(part, work[part])


def random_weights(folder: Path, machine: Machine) -> Path:
    """A folder with Mistral-7B-v0.1's architecture, and noise for weights; a whole one is kept."""
    path = folder / "backbone"
    if (path / "tokenizer.json").exists():  # which is written last
        return path
    if machine == Machine.tiny():
        return save_tiny(path)
    torch.manual_seed(0)
    with torch.device(machine.device):
        config = MistralConfig(bos_token_id=256, eos_token_id=257)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


if __name__ == "__main__":
    main()
