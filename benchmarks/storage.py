"""Bytes of a history of capabilities, against PEFT adapters kept in other ways.

    python benchmarks/storage.py [--dvc PATH] [--git-theta PATH]

20 capabilities with 3 revisions each: two bases of rank 8 on all linears of layers 4 to 29 of
SmolLM2-135M, random weights. The others get the same weights as PEFT's adapter_model.safetensors.
In one history a revision retrains both bases, in the other it reuses one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from common import markdown, write_results
from synthetic import adapter, commit, empty, sites, train
from versioning import Tool, available, notes

from niwfctl.repository import Repository
from niwfctl.repository.upkeep import collect

CAPABILITIES, REVISIONS = 20, 3
RANK = 8
SITES = sites(
    range(4, 30),
    {
        "self_attn.q_proj": (576, 576),
        "self_attn.k_proj": (576, 192),
        "self_attn.v_proj": (576, 192),
        "self_attn.o_proj": (576, 576),
        "mlp.gate_proj": (576, 1536),
        "mlp.up_proj": (576, 1536),
        "mlp.down_proj": (1536, 576),
    },
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dvc", type=Path, help="the `dvc` program")
    parser.add_argument("--git-theta", type=Path, help="the `git-theta` program")
    arguments = parser.parse_args()
    histories = {}
    for new in (2, 1):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NIWFCTL_CACHE"] = f"{folder}/cache"
            tools = available(Path(folder), arguments.dvc, arguments.git_theta)
            histories[new] = history(Path(folder), tools, new)
    titles = [title for title in histories[2] if title not in ("undo", "after gc")]
    rows = [
        [
            f"every revision trains {'both bases' if new == 2 else 'one basis of two'} anew",
            *(f"{sizes[title] / 1e6:.1f}" for title in titles),
        ]
        for new, sizes in histories.items()
    ]
    one = histories[1]
    table = (
        f"{markdown(['MB', *titles], rows)}\n\n"
        f"{CAPABILITIES} capabilities of {REVISIONS} revisions each, random bf16 weights of "
        "SmolLM2-135M's shapes, 2 bases of rank 8. All of `.git` is counted, of DVC its cache too, "
        "of the plain copies nothing else. "
        f"Until `gc`, what `undo` would bring back took another {one['undo'] / 1e6:.1f} MB. "
        f"Of the second history, cut to its end, `gc` left {one['after gc'] / 1e6:.1f} MB."
        f" {notes(tools)}"
    )
    write_results("storage", {"histories": histories}, table)


def history(folder: Path, tools: list[Tool], new: int) -> dict[str, int]:
    """Bytes by tool, of the same history.

    Args:
        new: how many of the two bases a revision trains.
    """
    repository = empty(folder)
    plain = 0
    for revision in range(REVISIONS):
        for number in range(CAPABILITIES):
            name, message = f"c{number}", f"Revision {revision} of c{number}"
            train(repository, name, SITES, RANK, new if revision else 2, 100 * number + revision)
            commit(repository, name, message)
            file = adapter(repository, name, folder / "peft" / f"{name}-{revision}")
            plain += file.stat().st_size
            for tool in tools:
                tool.put(file, f"{name}.safetensors")
                tool.commit(f"{name}.safetensors", message)
    before = size_of(repository)
    collect(repository, 0.0, False)
    kept = size_of(repository)
    cut(repository)
    collect(repository, 0.0, False)
    sizes = {tool.title: tool.size() for tool in tools}
    undo, after = before - kept, size_of(repository)
    return {"niwfctl": kept, "plain copies": plain, **sizes, "undo": undo, "after gc": after}


def cut(repository: Repository) -> None:
    """Leaves only a commit of HEAD's tree, without parents; earlier history is unreachable."""
    git = repository.git.plain
    branch = repository.git.branch()
    git("checkout", "--quiet", "--orphan", "cut")
    git("commit", "--quiet", "-m", "Only the end")
    git("branch", "--quiet", "-D", branch)
    git("reflog", "expire", "--expire=now", "--all")


def size_of(repository: Repository) -> int:
    """Bytes of `.git`, counted as for the other tools."""
    files = repository.git.common.rglob("*")
    return sum(f.stat().st_size for f in files if f.is_file() and "hooks" not in f.parts)


if __name__ == "__main__":
    main()
