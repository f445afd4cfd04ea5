"""Answering without a task id against the right capability given: quality and cost.

    python benchmarks/auto.py DATA_DIR FOLDER [--tasks code shell instruct] [--rounds 7]

Sides take turns in every round; the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics

from capabilities import arguments, held_out, repository_at, trained
from common import markdown, write_results
from speed import seconds

from niwfctl.records import Example
from niwfctl.repository.model import AUTO, Model
from niwfctl.training.run import TrainingOptions

DECODED = 32  # tokens a round


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    repository = repository_at(given.folder)
    for task in given.tasks:
        options = TrainingOptions(steps=given.steps)
        trained(repository, task, given.data / f"{task}.jsonl", options)
    model = repository.load(None)
    results = []
    for task in given.tasks:
        examples = held_out(repository, given.data / f"{task}.jsonl", given.rows)
        found = {"task": task}
        for side, name in (("base", None), ("given", task), ("auto", AUTO)):
            select(model, name)
            found[side] = model.score(examples).perplexity
        owners = model.owners(examples)
        found["routed_right"] = sum(owner == task for owner in owners) / len(owners)
        found |= cost(
            model,
            task,
            [e for e, o in zip(examples, owners, strict=True) if o == task],
            given.rounds,
        )
        results.append(found)
        print(found, flush=True)
    rows = [
        [
            one["task"],
            *(f"{one[side]:.3f}" for side in ("base", "given", "auto")),
            f"{one['auto'] / one['given']:.3f}",
            f"{one['routed_right']:.1%}",
            f"{one['first_token']:.3f}",
            f"{one['token']:.3f}",
        ]
        for one in results
    ]
    columns = ["task", "base", "given", "auto", "auto/given", "routed right"]
    columns += ["time to first token", "time a token"]
    table = markdown(columns, rows)
    table += (
        f"\n\nPerplexity of {given.rows} held-out rows, after {given.steps} steps of 8 rows; "
        "times are ratios of auto to given. SmolLM2-135M-Instruct, bf16."
    )
    write_results("auto", {"results": results}, table)


def select(model: Model, name: str | None) -> None:
    """Makes a capability active, or the owner of each prompt."""
    if name == AUTO:
        model.route()
    else:
        model.use(name)


def cost(model: Model, task: str, examples: list[Example], rounds: int) -> dict[str, float]:
    """Ratios of auto to given, of the time to the first token and of each further one."""
    prompts = [example.messages for example in examples[:4]]
    ratios: dict[str, list[float]] = {"first_token": [], "token": []}
    for number in range(rounds + 1):
        took = {}
        for name in (task, AUTO) if number % 2 else (AUTO, task):
            select(model, name)
            first = seconds(lambda: [model.generate(one, max_new_tokens=1) for one in prompts])
            whole = seconds(
                lambda: [model.generate(one, max_new_tokens=DECODED) for one in prompts]
            )
            took[name] = (first, whole - first)
        if number:  # the first round warms up
            for index, kind in enumerate(ratios):
                ratios[kind].append(took[AUTO][index] / took[task][index])
    return {kind: statistics.median(found) for kind, found in ratios.items()}


if __name__ == "__main__":
    main()
