"""Mistral-7B in 4 bits on one GPU: training, inference, switching and guarantees, against PEFT.

    python benchmarks/mistral7b.py [--model FOLDER_OR_HUB_ID] [--tiny]

Without --model, random weights of the true shapes, with a tokenizer of bytes: that changes no
figure of time or memory, and is noted beside each one. --tiny runs the same on a model of 4 layers
in seconds, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

# cuBLAS is deterministic only with this, and reads it at start.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from common import markdown, write_results
from gpu import Machine
from mistral_inference import inference
from mistral_training import training
from transformers import AutoModelForCausalLM, MistralConfig

from niwfctl.backbone.load import resolve
from niwfctl.errors import TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.regions import load_region
from niwfctl.training.loop import Progress
from niwfctl.training.run import TrainingOptions

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import save_tiny, tiny_tokenizer

RANK = 8  # of each of the two bases; PEFT gets rank 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="real weights; the default is random ones")
    parser.add_argument("--tiny", action="store_true", help="4 layers, seconds: does it run?")
    arguments = parser.parse_args()
    machine = Machine.tiny() if arguments.tiny else Machine.whole()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("NIWFCTL_CACHE", f"{folder}/cache")
        model = arguments.model or str(random_weights(Path(folder), arguments.tiny))
        results = {
            "gpu": machine.name,
            "weights": arguments.model or "random",
            "training": training(resolve(model), machine),
            **with_repository(Path(folder), model, machine),
        }
    name = "mistral7b-tiny" if arguments.tiny else "mistral7b"
    write_results(name, results, table(results), script="mistral7b")


def random_weights(folder: Path, tiny: bool) -> Path:
    """A folder with Mistral-7B-v0.1's architecture, and noise for weights."""
    path = folder / "backbone"
    if tiny:
        return save_tiny(path)
    torch.manual_seed(0)
    with torch.device(Machine.whole().device):
        config = MistralConfig(bos_token_id=256, eos_token_id=257)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def with_repository(folder: Path, model: str, machine: Machine) -> dict[str, object]:
    """Measurements on a repository with two capabilities."""
    took: dict[str, float] = {}
    with machine.timing(took, "init"):
        repository = Repository.init(folder / "repository", model=model, quant=machine.quant)
    data = folder / "data.jsonl"
    rows = ({"prompt": f"Say yes to {row}.", "completion": "yes"} for row in range(8))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = TrainingOptions(steps=2, batch_size=2, val_split=0.25)
    in_8_bits = options.model_copy(update={"optimizer": "paged_adamw_8bit"})
    routing = RoutingOptions(accept_shadow=True)
    resumed = {options.optimizer: in_two_goes(repository, "first", data, options)}
    machine.forget()
    repository.commit(["first"], "First", routing)
    before = evidence(repository, machine)
    resumed[in_8_bits.optimizer] = in_two_goes(repository, "second", data, in_8_bits)
    machine.forget()
    with machine.timing(took, "commit"):
        repository.commit(["second"], "Second", routing)
    with machine.timing(took, "verify"):
        repository.verify()
    with machine.timing(took, "verify --deep"):
        report = repository.verify(deep=True)
    after = evidence(repository, machine)
    return {
        "seconds": took,
        "resumed": resumed,
        "verified": report.ok,
        "unchanged": {key: torch.equal(before[key], after[key]) for key in before},
        "capability_bytes": repository.atlas()["first"].size,
        "inference": inference(repository, machine),
    }


def in_two_goes(
    repository: Repository, name: str, data: Path, options: TrainingOptions
) -> dict[str, float]:
    """Trains with a stop after the first step; the loss there and at the end."""
    first: list[float] = []

    def note(progress: Progress) -> None:
        if progress.step == 1 and progress.loss is not None:
            first.append(progress.loss)

    with suppress(TrainingInterrupted):
        repository.train(name, [data], options, report=note, stop=lambda: bool(first))
    run = repository.train(name, resume=True)
    return {"loss": first[0], "loss after resuming": run.loss}


def evidence(repository: Repository, machine: Machine) -> dict[str, torch.Tensor]:
    """Gates, a change of weights, and logits of the first capability (G1)."""
    model = repository.load("first")
    (entry,) = repository.capability("first").regions
    region = load_region(repository, entry, model.device)
    random = torch.Generator().manual_seed(0)
    z = torch.randn(1000, region.cell.dim, generator=random).to(model.device)
    tokens = torch.randint(0, 256, (2, 32), generator=random).to(model.device)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.no_grad(), model.adapter.prompts(torch.ones_like(tokens, dtype=torch.bool)):
            logits = model.backbone.model(tokens).logits.cpu()
    finally:
        torch.use_deterministic_algorithms(False)
    _, change = next(iter(region.weight_changes(z[0])))
    found = {"gates": region.gates(z).cpu(), "change of weights": change.cpu(), "logits": logits}
    del model, region
    machine.forget()
    return found


def table(results: dict) -> str:
    """The report, for people."""
    weights = f"{results['weights']} weights, on {results['gpu']}"
    trained = [
        [
            row["length"],
            row["batch"],
            "yes" if row["checkpointing"] else "no",
            row["optimizer"],
            *(f"{row[side]['tokens_per_second']:.0f}" for side in ("niwfctl", "peft")),
            f"{row['speed']:.2f}",
            *(f"{row[side]['peak_gib']:.2f}" for side in ("niwfctl", "peft")),
        ]
        for row in results["training"]["rows"]
    ]
    columns = ["length", "batch", "checkpointing", "optimizer", "tokens/s", "PEFT's", "ratio"]
    columns += ["peak, GiB", "PEFT's"]
    answered = [
        [row["batch"], row["stage"], f"{row['bare_ms']:.1f}"]
        + [f"{row['ratio'][side]:.3f}" for side in row["ratio"]]
        for row in results["inference"]["rows"]
    ]
    sides = list(results["inference"]["rows"][0]["ratio"])
    unchanged = ", ".join(f"{key}: {same}" for key, same in results["unchanged"].items())
    resumed = "; ".join(
        f"{optimizer} {', then '.join(f'{loss:.3f}' for loss in losses.values())}"
        for optimizer, losses in results["resumed"].items()
    )
    parts = (results["training"], results, results["inference"])
    seconds = {key: value for part in parts for key, value in part["seconds"].items()}
    return "\n\n".join(
        [
            f"Mistral-7B's shapes, {weights}.",
            "Training, niwfctl (2 bases of rank 8 from the tap layer up) and PEFT QLoRA "
            "(rank 16 on all layers), all linears:",
            markdown(columns, trained),
            "Time over that of the bare backbone (prefill of the prompt, and each token after):",
            markdown(["batch", "stage", "bare, ms", *sides], answered),
            "Seconds: " + ", ".join(f"{key} {value:.3g}" for key, value in seconds.items()) + ".",
            f"Equal bit for bit after another commit: {unchanged}. "
            f"`verify --deep` holds: {results['verified']}.",
            f"Losses of trainings that were stopped after the first step and resumed: {resumed}.",
            f"A capability takes {results['capability_bytes'] / 1e6:.0f} MB.",
        ]
    )


if __name__ == "__main__":
    main()
