"""The Python API behind the command line, in one runnable example.

python examples/api.py [FOLDER]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from niwfctl import Repository, TrainingOptions


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    data = folder / "plurals.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    words = [
        "cat",
        "dog",
        "book",
        "river",
        "window",
        "engine",
        "garden",
        "letter",
        "planet",
        "silver",
    ]
    data.write_text(
        "".join(
            json.dumps({"prompt": f"Plural of {word}?", "completion": f"{word}s"}) + "\n"
            for word in words * 4
        )
    )

    repository = Repository.init(folder / "capabilities", model="smollm2")
    run = repository.train(
        "plurals",
        [data],
        TrainingOptions(steps=10, batch_size=8, val_split=0.2),
        report=lambda now: print(now.stage, now.step, now.loss),
    )
    print(f"held-out perplexity: {run.base_perplexity:.2f} (base) to {run.perplexity:.2f}")
    print("commit", repository.commit(["plurals"], "Plurals of nouns").commit)

    model = repository.load("plurals")
    print("plurals:", model.generate("Plural of tiger?", max_new_tokens=16))
    model.use(None)
    print("base:   ", model.generate("Plural of tiger?", max_new_tokens=16))

    report = repository.verify(deep=True)
    for check in report.checks:
        print("ok" if check.ok else "FAILED", check.subject, check.check, check.detail)
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
