"""Pooled states of many tasks' prompts, which are all that routing looks at."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tasks
import torch
from common import HELD_OUT, embedded
from torch import Tensor

from niwfctl.backbone.batch import batched, pad, prompt_mask
from niwfctl.backbone.calibration import calibration_prompts
from niwfctl.backbone.load import Backbone
from niwfctl.backbone.prompts import common_prefix, prompt_tokens
from niwfctl.backbone.sites import decoder_layers
from niwfctl.field.coordinates import pool
from niwfctl.records import Message
from niwfctl.training.data import read_examples

LONGEST = 256  # tokens; longer prompts are cut off
LAYERS = (2, 4, 6)
POOL = 1100  # prompts per task to draw from
States = dict[str, dict[str, Tensor]]


def task_states(data: Path, folder: Path) -> States:
    """States by task, then by `mean` or `last` and the layer they enter; [prompts, hidden].

    The last 200 of each task are held out. `calibration` are the packaged prompts.

    Args:
        data: folder of code.jsonl, shell.jsonl and instruct.jsonl.
        folder: where they are kept, a file per task; existing ones are not computed again.
    """
    with tempfile.TemporaryDirectory() as scratch:
        texts = _prompts(data, Path(scratch))
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.pt" for name in texts}
    if not all(file.exists() for file in files.values()):
        _read(texts, files)
    return {name: torch.load(file) for name, file in files.items()}


def _prompts(data: Path, scratch: Path) -> dict[str, list[str]]:
    """Prompts of all tasks, the held-out ones last."""
    maker = Path(__file__).parent.parent / "examples" / "stdlib_data.py"
    subprocess.run([sys.executable, maker, scratch], check=True, stdout=subprocess.DEVNULL)
    files = {name: [data / f"{name}.jsonl"] for name in ("code", "shell", "instruct")}
    for kind in ("code", "explain"):
        pair = [scratch / f"{kind}.jsonl", scratch / f"{kind}.heldout.jsonl"]
        files[f"stdlib-{kind}"] = pair
    for made in (tasks.german, tasks.packages, tasks.manual):
        files[made.__name__] = [tasks.write(made, scratch, POOL + HELD_OUT)]
    for made in (tasks.arithmetic, tasks.extraction, tasks.changes, tasks.sql, tasks.french):
        files[made.__name__] = [tasks.write(made, scratch, 2 * HELD_OUT)]
    found = {"calibration": calibration_prompts()}
    for name, parts in files.items():
        texts = [one.messages[-1].content for one in read_examples([str(part) for part in parts])]
        found[name] = [*texts[: min(POOL, len(texts) - HELD_OUT)], *texts[-HELD_OUT:]]
    return found


def _read(texts: dict[str, list[str]], files: dict[str, Path]) -> None:
    backbone = embedded()
    rows = {
        name: [prompt_tokens(backbone.tokenizer, [Message("user", t)])[:LONGEST] for t in found]
        for name, found in texts.items()
    }
    skip = common_prefix(rows["calibration"])
    for name, found in rows.items():
        if files[name].exists():
            continue
        print(f"reading {len(found)} prompts of {name}", file=sys.stderr, flush=True)
        order = sorted(range(len(found)), key=lambda index: len(found[index]))
        parts = [
            _entering(backbone, [found[i] for i in batch], skip) for batch in batched(order, 32)
        ]
        back = torch.tensor(order).argsort()
        states = {key: torch.cat([part[key] for part in parts])[back] for key in parts[0]}
        torch.save(states, files[name])


@torch.no_grad()
def _entering(backbone: Backbone, rows: Sequence[list[int]], skip: int) -> dict[str, Tensor]:
    """The inputs of LAYERS, pooled in two ways; no layer above runs."""
    layers, found = decoder_layers(backbone.model), {}
    tokens, lengths = pad(rows), [len(row) for row in rows]
    mask = prompt_mask(lengths, tokens.shape[1], skip)

    class Enough(Exception):
        pass

    def keep(layer: int):
        def hook(module, args, kwargs) -> None:
            states = (args[0] if args else kwargs["hidden_states"]).float()
            found[f"mean{layer}"] = pool(states, mask)
            found[f"last{layer}"] = states[range(len(rows)), [n - 1 for n in lengths]]
            if layer == LAYERS[-1]:
                raise Enough

        return hook

    hooks = [layers[n].register_forward_pre_hook(keep(n), with_kwargs=True) for n in LAYERS]
    try:
        backbone.model.get_decoder()(tokens, use_cache=False)
    except Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found
