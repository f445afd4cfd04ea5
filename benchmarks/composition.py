"""What a composition keeps of each part: ours, and PEFT's on the same adapters.

    python benchmarks/composition.py DATA_DIR FOLDER [--tasks code shell instruct]

Retention is the perplexity of a part alone over its perplexity in the composition, on held-out
rows. Weights are searched on validation rows. PEFT gets each part as `niwfctl export` writes it,
and its retention is over the exported part alone.
"""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from capabilities import arguments, held_out, repository_at, trained, validation
from common import embedded, markdown, perplexity, write_results
from peft import PeftModel

from niwfctl.backbone.prompts import encode
from niwfctl.field.frozen import FrozenSum
from niwfctl.records import Example
from niwfctl.repository import Repository
from niwfctl.repository.approximation import compressed
from niwfctl.repository.compose import APPROXIMATING, EXACT, Recipe
from niwfctl.repository.export import export
from niwfctl.repository.mixture import of_capability
from niwfctl.repository.regions import load_region
from niwfctl.repository.sweep import sweep
from niwfctl.training.run import TrainingOptions

PEFT_METHODS = ("linear", "cat", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune")
SWEPT_ROWS = 24
Row = dict[str, object]
Rows = dict[str, list[Example]]


def main() -> None:
    given = arguments(__doc__).parse_args()
    repository = repository_at(given.folder)
    for task in given.tasks:
        trained(repository, task, given.data / f"{task}.jsonl", TrainingOptions(steps=given.steps))
    files = {task: given.data / f"{task}.jsonl" for task in given.tasks}
    test = {task: held_out(repository, file, given.rows) for task, file in files.items()}
    tuned = {
        task: validation(repository, file)[: min(SWEPT_ROWS, given.rows)]
        for task, file in files.items()
    }
    results: list[Row] = []
    sizes = range(2, min(len(given.tasks), 3) + 1)
    for parts in (group for size in sizes for group in itertools.combinations(given.tasks, size)):
        weights = sweep(repository, parts, tuned)[0].weights
        plain = (0.7,) * len(parts)
        results += ours(repository, parts, test, [weights, plain])
        results += theirs(repository, parts, test, [weights, plain])
        print(results[-1], flush=True)
    exact, compression = exactness(repository, given.tasks[:2])
    rows = [
        [
            " + ".join(row["parts"]),
            row["side"],
            row["method"],
            " ".join(f"{w:g}" for w in row["weights"]),
            *[
                ", ".join(f"{kept:.3f}" for kept in row["retentions"]),
                f"{min(row['retentions']):.3f}",
            ],
        ]
        for row in results
    ]
    table = markdown(["parts", "by", "method", "weights", "retention of each", "least"], rows)
    table += (
        "\n\nRetention is the perplexity of a part alone over its perplexity in the composition, "
        "on held-out rows; PEFT's is over the part as `niwfctl export` writes it. Of two lines of "
        "a method the first has weights that a search on validation rows found, the second 0.7 for "
        "each.\n\n"
        f"Relative error in ΔW of our linear sum of weights 0.7 and -0.3: {exact:.1e}. Best "
        f"compression of a sum of two to rank 16, all linears: {compression:.2f} s. "
        f"{given.steps} steps of 8 rows a capability, {given.rows} held-out rows of each, "
        "SmolLM2-135M-Instruct, bf16."
    )
    measured = {"results": results, "linear_error": exact, "compression_seconds": compression}
    write_results("composition", measured, table)


def ours(
    repository: Repository, parts: Sequence[str], test: Rows, choices: Sequence[tuple[float, ...]]
) -> list[Row]:
    """Retentions of our methods; every composition is committed, measured and undone."""
    model = repository.load(None)
    alone = []
    for part in parts:
        model.use(part)
        alone.append(model.score(test[part]).perplexity)
    found = []
    recipes = [Recipe(weights, method) for method in ("linear", "svd") for weights in choices]
    recipes += [Recipe(choices[0], method, rank=16) for method in APPROXIMATING]
    recipes.append(Recipe(method=EXACT[1]))
    for recipe in recipes:
        done = repository.compose(parts, "composed", recipe)
        model.adapter.active = model.resident.acting(of_capability(repository, done.capability))
        kept = [a / model.score(test[p]).perplexity for a, p in zip(alone, parts, strict=True)]
        repository.operations.undo()
        used = recipe.weights or (1.0,) * len(parts)
        rank = f", rank {recipe.rank}" if recipe.rank else ""
        found.append(_row(parts, "niwfctl", recipe.method + rank, used, kept, done.error))
    return found


def theirs(
    repository: Repository, parts: Sequence[str], test: Rows, choices: Sequence[tuple[float, ...]]
) -> list[Row]:
    """Retentions of `add_weighted_adapter` on the exported parts."""
    backbone = embedded()
    rows = {p: [encode(backbone.tokenizer, one) for one in test[p]] for p in parts}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            export(repository, part, "peft", Path(folder) / part, None)
        first, *others = parts
        model = PeftModel.from_pretrained(backbone.model, f"{folder}/{first}", adapter_name=first)
        for part in others:
            model.load_adapter(f"{folder}/{part}", adapter_name=part)
    alone = {}
    for part in parts:
        model.set_adapter(part)
        alone[part] = perplexity(model, rows[part])
    found = []
    for method, weights in [(m, w) for m in PEFT_METHODS for w in choices]:
        options = {} if method in ("linear", "cat", "svd") else {"density": 0.5}
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.add_weighted_adapter(
                list(parts), list(weights), "composed", combination_type=method, **options
            )
        model.set_adapter("composed")
        kept = [alone[part] / perplexity(model, rows[part]) for part in parts]
        model.delete_adapter("composed")
        found.append(_row(parts, "PEFT", method, weights, kept, None))
    return found


def exactness(repository: Repository, parts: Sequence[str]) -> tuple[float, float]:
    """(relative error in ΔW of a linear sum, seconds to compress one to rank 16)."""
    regions = [load_region(repository, repository.capability(p).regions[0]) for p in parts]
    terms = list(zip((0.7, -0.3), regions, strict=True))
    whole, each = FrozenSum.at_means(terms), [FrozenSum.at_means([one]) for one in terms]
    off, norm = 0.0, 0.0
    for name in whole.names:
        true = sum(up.double() @ down.double() for down, up in (one.at(name) for one in each))
        down, up = whole.at(name)
        off += float((up.double() @ down.double() - true).square().sum())
        norm += float(true.square().sum())
    return (off / norm) ** 0.5, seconds(lambda: compressed(whole, 16))


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """The best of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def _row(
    parts: Sequence[str],
    side: str,
    method: str,
    weights: Sequence[float],
    kept: Sequence[float],
    error: float | None,
) -> Row:
    return {
        "parts": list(parts),
        "side": side,
        "method": method,
        "weights": list(weights),
        "retentions": list(kept),
        "error": error,
    }


if __name__ == "__main__":
    main()
