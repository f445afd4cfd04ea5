"""Exported capabilities in llama.cpp itself, against the same export in PyTorch.

    python benchmarks/llama_cpp.py DATA_DIR FOLDER [--tasks code shell]

llama.cpp comes with the npm package `node-llama-cpp`, installed in FOLDER on first use: Node.js is
needed. It multiplies the backbone's 4-bit blocks by activations in 8 bits; PyTorch has the same
blocks as bf16. So the bare backbone's two perplexities differ slightly, which is the yardstick for
those with a LoRA. Getting every token's probability is slow: 16 rows per task take minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from capabilities import arguments, held_out, repository_at, trained
from common import embedded, markdown, perplexity, write_results
from peft import PeftModel

from niwfctl.backbone.embedded import embedded_gguf
from niwfctl.backbone.prompts import Tokens, encode
from niwfctl.repository import Repository
from niwfctl.training.run import TrainingOptions

PACKAGE = "node-llama-cpp@3.22.1"
SCRIPT = Path(__file__).with_suffix(".mjs")


def main() -> None:
    given = arguments(__doc__).parse_args()
    repository, folder = repository_at(given.folder), given.folder.resolve()
    install(folder)
    backbone = embedded()
    results = []
    for task in given.tasks:
        file = given.data / f"{task}.jsonl"
        trained(repository, task, file, TrainingOptions(steps=given.steps))
        examples = held_out(repository, file, given.rows)
        rows = [encode(backbone.tokenizer, example) for example in examples]
        lora = exported(repository, task, "gguf-lora", folder / f"{task}.gguf")
        adapter = exported(repository, task, "peft", folder / f"{task}.peft")
        found = {"task": task, "rows": len(rows), "torch": {}, "llama.cpp": {}}
        found["torch"]["base"] = perplexity(backbone.model, rows)
        found["llama.cpp"]["base"] = in_llama_cpp(folder, rows, None)
        model = PeftModel.from_pretrained(backbone.model, str(adapter))
        found["torch"]["exported"] = perplexity(model, rows)
        found["llama.cpp"]["exported"] = in_llama_cpp(folder, rows, lora)
        model.unload()
        results.append(found)
        print(found, flush=True)
    write_results("llama_cpp", {"package": PACKAGE, "results": results}, table(results))


def install(folder: Path) -> None:
    """llama.cpp, installed in its own folder."""
    if not (folder / "node_modules").is_dir():
        (folder / "package.json").write_text("{}")
        done = subprocess.run(
            ["npm", "install", "--silent", "--ignore-scripts", PACKAGE], cwd=folder
        )
        if done.returncode:
            sys.exit(f"npm could not install {PACKAGE}: see what it says above")
    (folder / SCRIPT.name).write_text(SCRIPT.read_text())  # where it finds the installed packages


def exported(repository: Repository, task: str, form: str, target: Path) -> Path:
    """What an earlier run exported, or a new export."""
    if not target.exists():
        repository.export(task, target, form)
    return target


def in_llama_cpp(folder: Path, rows: Sequence[Tokens], lora: Path | None) -> float:
    """Perplexity of the answers' tokens."""
    request = {
        "model": str(embedded_gguf()),
        "lora": lora and str(lora),
        "rows": [{"prompt": list(row.prompt), "answer": list(row.answer)} for row in rows],
    }
    answer = subprocess.run(
        ["node", SCRIPT.name], cwd=folder, input=json.dumps(request), capture_output=True, text=True
    )
    if answer.returncode:
        sys.exit(f"llama.cpp failed: {answer.stderr}")
    return json.loads(answer.stdout)["perplexity"]


def table(results: Sequence[dict]) -> str:
    rows = []
    for one in results:
        for side in ("base", "exported"):
            ours, theirs = one["torch"][side], one["llama.cpp"][side]
            rows.append([one["task"], side, f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.4f}"])
    columns = ["task", "", "PyTorch, bf16", "llama.cpp, Q4_1", "llama.cpp over PyTorch"]
    return markdown(columns, rows) + (
        f"\n\nPerplexity of {results[0]['rows']} held-out rows. `exported` is `--format gguf-lora` "
        f"in llama.cpp ({PACKAGE}) and `--format peft` in PEFT: the same frozen gates."
    )


if __name__ == "__main__":
    main()
