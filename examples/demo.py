"""The main use, end to end, with only the command line and this machine's own Python.

Trains `code` (write a function's body) and `explain` (say what a function does) on the standard
library, one after the other, commits both, and shows that the first is what it was, bit for bit.

    python examples/demo.py [--steps N] [--rows N] [FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
NIWFCTL = str(Path(sys.executable).with_name("niwfctl"))
console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    arguments = parse()
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="niwfctl-demo-")).resolve()
    started = time.monotonic()
    data = make_data(folder, arguments.rows)
    repository = folder / "capabilities"
    step("Make a repository on the embedded backbone")
    niwfctl("init", repository)

    training = ("--steps", arguments.steps, "--batch-size", 8, "--val-split", 0.02, "--skip-long")
    step("Train the first capability, and commit it")
    niwfctl("-C", repository, "train", "code", "--data", data / "code.jsonl", *training)
    niwfctl("-C", repository, "commit", "code", "-m", "Write the body of a function")
    before = measure(repository, data, "code")

    step("Train the second, and commit it")
    niwfctl("-C", repository, "train", "explain", "--data", data / "explain.jsonl", *training)
    niwfctl("-C", repository, "commit", "explain", "-m", "Say what a function does")
    niwfctl("-C", repository, "log")
    after = measure(repository, data, "code")
    second = measure(repository, data, "explain")

    step("Is the first still what it was?")
    verdict = niwfctl("-C", repository, "verify", "--deep", check=False)
    show_table(before, after, second)
    step("One prompt, three answers")
    show_answers(repository, data)
    console.print(f"\n{time.monotonic() - started:.0f} s in all. The repository: {repository}")
    equal = before["code"] == after["code"]
    sameness = "equal to the last digit" if equal else "NOT EQUAL"
    proof = "all hold" if verdict == 0 else "FAILED"
    console.print(f"[bold]`code` before and after `explain`: {sameness}; verify: {proof}[/]")
    sys.exit(0 if equal and verdict == 0 else 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", nargs="?", help="where to work; a new temporary folder by default"
    )
    parser.add_argument("--steps", type=int, default=40, help="training steps of each capability")
    parser.add_argument("--rows", type=int, default=64, help="held-out rows to measure on")
    return parser.parse_args()


def make_data(folder: Path, rows: int) -> Path:
    """Real data from the standard library; only the first held-out rows are measured."""
    step("Make data from the standard library of this Python")
    run([sys.executable, str(HERE / "stdlib_data.py"), str(folder / "data")])
    for name in ("code", "explain"):
        file = folder / "data" / f"{name}.heldout.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:rows]))
    return folder / "data"


def measure(repository: Path, data: Path, name: str) -> dict[str, float]:
    """Held-out perplexity of the base and of a capability."""
    held_out = data / f"{name}.heldout.jsonl"
    command = [NIWFCTL, "-C", str(repository), "eval", name, "--data", str(held_out), "--json"]
    console.print(f"[bold]$ {shlex.join(['niwfctl', *command[1:]])}[/]")
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {row["capability"] or "base": row["perplexity"] for row in found["results"]}


def show_table(before: dict[str, float], after: dict[str, float], second: dict[str, float]) -> None:
    table = Table(title="Held-out perplexity")
    for column in ("data", "base", "capability at its commit", "after the second commit"):
        table.add_column(column, justify="left" if column == "data" else "right")
    table.add_row("code", repr(before["base"]), repr(before["code"]), repr(after["code"]))
    table.add_row("explain", repr(second["base"]), "", repr(second["explain"]))
    console.print(table)


def show_answers(repository: Path, data: Path) -> None:
    first = json.loads((data / "explain.heldout.jsonl").read_text().splitlines()[0])
    prompt = f"{first['instruction']}\n\n{first['input']}"
    console.print(prompt, markup=False)
    for choice in (("--base",), ("--capability", "code"), ("--capability", "explain")):
        console.print(f"\n[bold]{choice[-1].removeprefix('--')}[/]")
        niwfctl("-C", repository, "run", prompt, *choice, "--max-new-tokens", 80, show=False)


def step(title: str) -> None:
    console.print(f"\n[bold cyan]{title}[/]")


def niwfctl(*arguments: object, check: bool = True, show: bool = True) -> int:
    """Runs the command as a user would; returns its exit code."""
    return run([NIWFCTL, *map(str, arguments)], check=check, show=show)


def run(command: list[str], check: bool = True, show: bool = True) -> int:
    if show:
        console.print(f"[bold]$ {shlex.join([Path(command[0]).name, *command[1:]])}[/]")
    return subprocess.run(command, check=check).returncode


if __name__ == "__main__":
    main()
