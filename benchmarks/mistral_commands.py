"""Every step of a first session on Mistral-7B's architecture in 4 bits, on this processor.

    python benchmarks/mistral_commands.py FOLDER [--tiny]

Each step is a command as its user types it, with its seconds and peak memory. FOLDER holds the
backbone, 14.5 GB of random weights, their copy in 4 bits, and the repository; it is kept, and the
backbone is used again. Training is two steps of two short rows: this shows that everything works
at this size, how much memory it takes, and that the second capability leaves the first as it was
(`verify --deep`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from common import markdown, write_results
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
BETWEEN = 0.02  # seconds between two readings of the memory
TRAINING = ["--steps", "2", "--batch-size", "2", "--max-length", "64", "--val-split", "0.25"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the backbone and the repository")
    parser.add_argument("--tiny", action="store_true", help="4 layers: does it run?")
    arguments = parser.parse_args()
    if (arguments.folder / "repository").exists():
        parser.error(f"{arguments.folder / 'repository'} is there already: remove it first")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    backbone = save_random(arguments.folder / "backbone", **(TINY if arguments.tiny else {}))
    cache = arguments.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)  # so that `init` finds no copy in 4 bits
    os.environ["NIWFCTL_CACHE"] = str(cache)
    rows = [measured(arguments.folder, command) for command in session(arguments.folder, backbone)]
    name = "mistral_commands-tiny" if arguments.tiny else "mistral_commands"
    what = "A tiny Mistral" if arguments.tiny else "Mistral-7B's architecture"
    results = {"weights": "random", "commands": rows}
    write_results(name, results, table(rows, what), "mistral_commands")


def save_random(folder: Path, **sizes: int) -> Path:
    """A folder with Mistral-7B-v0.1's architecture and noise for weights, a file a layer.

    Existing files are kept.

    Args:
        sizes: replace those of the model's config.json.
    """
    if (folder / "model.safetensors.index.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = MistralConfig(bos_token_id=0, eos_token_id=1, dtype="bfloat16", **sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    files: dict[str, str] = {}
    for number, names in enumerate(by_layer(model)):
        file = f"model-{number:05}.safetensors"
        tensors = {name: noise(name, model.get_parameter(name)) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        files |= dict.fromkeys(names, file)
    config.save_pretrained(folder)
    tokenizer(config.vocab_size).save_pretrained(folder)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def by_layer(model: PreTrainedModel) -> Iterator[list[str]]:
    """Names of parameters: those of each layer, and the others."""
    names = [name for name, _ in model.named_parameters()]
    for layer in range(model.config.num_hidden_layers):
        yield [name for name in names if f".layers.{layer}." in name]
    yield [name for name in names if ".layers." not in name]


def noise(name: str, like: Tensor) -> Tensor:
    """Weights as the model's own initialization draws them, bf16."""
    if "norm" in name:
        return torch.ones(like.shape, dtype=torch.bfloat16)
    return torch.empty(like.shape, dtype=torch.bfloat16).normal_(0, 0.02)


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of this size, learned from Python's own library: prompts have usual lengths."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train(sorted(map(str, Path(os.__file__).parent.glob("*.py"))), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<s>", eos_token="</s>")


def session(folder: Path, backbone: Path) -> list[list[str]]:
    """The commands, in order."""
    sums = data(folder / "sums.jsonl", {f"{a}+7=": a + 7 for a in range(16)})
    products = data(folder / "products.jsonl", {f"{a}*7=": a * 7 for a in range(16)})
    return [
        ["init", str(folder / "repository"), "--model", str(backbone), "--quant", "nf4"],
        ["train", "sums", "--data", sums, *TRAINING],
        ["commit", "sums", "-m", "Add"],
        ["checkout", "sums"],
        ["run", "3+7=", "--max-new-tokens", "8"],
        ["train", "products", "--data", products, *TRAINING],
        ["commit", "products", "-m", "Multiply", "--accept-shadow"],
        ["diff", "sums", "products"],
        ["log"],
        ["verify"],
        ["verify", "--deep"],
    ]


def data(file: Path, answers: dict[str, int]) -> str:
    """Writes records for training."""
    rows = ({"prompt": prompt, "completion": str(answer)} for prompt, answer in answers.items())
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def measured(folder: Path, command: list[str]) -> dict[str, object]:
    """Runs `niwfctl` with arguments: its seconds and the peak of its own memory.

    Its own memory excludes mapped pages of the backbone's files, which can be dropped.

    Raises:
        CalledProcessError: the command failed.
    """
    program = str(Path(sys.executable).with_name("niwfctl"))
    where = [] if command[0] == "init" else ["-C", str(folder / "repository")]
    started, peak = time.perf_counter(), 0
    with psutil.Popen([program, *where, *command]) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                memory = process.memory_info()
                peak = max(peak, memory.rss - memory.shared)
            time.sleep(BETWEEN)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - started
    shown = " ".join(command).replace(str(folder), "FOLDER")
    return {"command": shown, "seconds": seconds, "peak_gib": peak / 2**30}


def table(rows: list[dict], what: str) -> str:
    """The report, for people."""
    lines = [
        [f"`{row['command']}`", f"{row['seconds']:.1f}", f"{row['peak_gib']:.1f}"] for row in rows
    ]
    return (
        f"{what} in NF4 with random weights, all of it on the processor.\n\n"
        f"{markdown(['`niwfctl …`', 'seconds', 'peak of own memory, GiB'], lines)}\n\n"
        "`init` puts the backbone's weights into 4 bits; the commands after it read those. What is "
        "shown is that all of it works; for training use a GPU."
    )


if __name__ == "__main__":
    main()
