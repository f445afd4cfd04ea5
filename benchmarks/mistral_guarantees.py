"""A repository on a GPU: a training that stops and goes on, G1 after another commit, and `verify`.

Nothing is set that a user has not set either: torch's deterministic algorithms stay off.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch
from gpu import Machine
from mistral_cells import Results
from torch import Tensor

from niwfctl.backbone.cache import is_whole
from niwfctl.backbone.load import resolve
from niwfctl.backbone.quantized import kept_copy
from niwfctl.errors import TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.regions import load_region
from niwfctl.training.loop import Progress
from niwfctl.training.run import TrainingOptions

FIRST, SECOND = "first", "second"
OPTIONS = TrainingOptions(steps=2, batch_size=2, val_split=0.25)
IN_8_BITS = OPTIONS.model_copy(update={"optimizer": "paged_adamw_8bit"})


class Session:
    """A repository with two capabilities, and what was seen of the first before the second.

    Attributes:
        path: of the repository; a new one replaces one that an earlier run left.
    """

    def __init__(self, folder: Path, model: str, machine: Machine) -> None:
        self.path, self.model, self.machine = folder / "repository", model, machine
        self._data = folder / "data.jsonl"
        rows = ({"prompt": f"Say yes to {row}.", "completion": "yes"} for row in range(8))
        self._data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._before: dict[str, Tensor] = {}

    def guarantees(self, results: Results) -> None:
        """Measures all steps."""
        steps = {
            "init": self.init,
            "train, stop and resume": lambda: self.in_two_goes(FIRST, OPTIONS),
            "commit": lambda: self.commit(FIRST),
            "two passes, equal bit for bit": self.repeated,
            "the same in 8 bits": lambda: self.in_two_goes(SECOND, IN_8_BITS),
            "second commit": lambda: self.commit(SECOND),
            "verify": self.verify,
            "verify --deep": lambda: self.verify("--deep"),
            "after the second commit, equal bit for bit": self.unchanged,
        }
        for name, work in steps.items():
            results.measure("guarantees", {"step": name}, work)

    def with_two_capabilities(self) -> Repository:
        """The repository that `guarantees` left, or a new one."""
        if self.path.exists():
            repository = Repository.open(self.path)
            if {FIRST, SECOND} <= repository.atlas().keys():
                return repository
        self.init()
        for name in (FIRST, SECOND):
            Repository.open(self.path).train(name, [self._data], OPTIONS)
            self.commit(name)
        return Repository.open(self.path)

    def init(self) -> dict[str, bool]:
        """A new repository; whether the backbone had to be put into 4 bits for it."""
        shutil.rmtree(self.path, ignore_errors=True)
        copy = kept_copy(resolve(self.model).identity, str(self.machine.device))
        puts = self.machine.quant == "nf4" and not is_whole(copy)
        Repository.init(self.path, model=self.model, quant=self.machine.quant)
        return {"puts the backbone into 4 bits": puts}

    def in_two_goes(self, name: str, options: TrainingOptions) -> dict[str, object]:
        """Trains with a stop after the first step; the loss there and at the end."""
        repository = Repository.open(self.path)
        first: list[float] = []

        def note(progress: Progress) -> None:
            if progress.step == 1 and progress.loss is not None:
                first.append(progress.loss)

        with suppress(TrainingInterrupted):
            repository.train(name, [self._data], options, report=note, stop=lambda: bool(first))
        run = repository.train(name, resume=True)
        return {"optimizer": options.optimizer, "loss": first[0], "resumed": run.loss}

    def commit(self, name: str) -> dict[str, object]:
        """Commits a capability; its size."""
        repository = Repository.open(self.path)
        repository.commit([name], name.capitalize(), RoutingOptions(accept_shadow=True))
        return {"megabytes": repository.atlas()[name].size / 1e6}

    def repeated(self) -> dict[str, bool]:
        """Whether a model that is loaded twice computes the same, before anything is added."""
        self._before = self.evidence()
        return self.unchanged()

    def unchanged(self) -> dict[str, bool]:
        """What of the first capability is as it was before the second one's training.

        Raises:
            RuntimeError: it was not seen before.
        """
        if not self._before:
            raise RuntimeError("the first capability's logits were not taken")
        now = self.evidence()
        return {key: torch.equal(before, now[key]) for key, before in self._before.items()}

    def evidence(self) -> dict[str, Tensor]:
        """Gates, a change of weights, and logits of the first capability (G1)."""
        self.machine.forget()
        repository = Repository.open(self.path)
        model = repository.load(FIRST)
        (entry,) = repository.capability(FIRST).regions
        region = load_region(repository, entry, model.device)
        random = torch.Generator().manual_seed(0)
        z = torch.randn(1000, region.cell.dim, generator=random).to(model.device)
        tokens = torch.randint(0, 256, (2, 32), generator=random).to(model.device)
        with torch.no_grad(), model.adapter.prompts(torch.ones_like(tokens, dtype=torch.bool)):
            logits = model.backbone.model(tokens).logits.cpu()
        _, change = next(iter(region.weight_changes(z[0])))
        gates = region.gates(z).detach().cpu()
        return {"gates": gates, "change of weights": change.cpu(), "logits": logits}

    def verify(self, *options: str) -> dict[str, object]:
        """What the command says, in a process of its own, as its user starts it.

        Raises:
            RuntimeError: it ended without a verdict.
        """
        command = [sys.executable, "-m", "niwfctl", "-C", str(self.path), "verify", "--json"]
        ended = subprocess.run([*command, *options], capture_output=True, text=True)
        try:
            checks = json.loads(ended.stdout)["checks"]
        except (ValueError, KeyError):
            raise RuntimeError((ended.stderr or ended.stdout).strip()[-500:]) from None
        failed = [
            f"{one['subject']} {one['check']}: {one['detail']}" for one in checks if not one["ok"]
        ]
        return {"holds": ended.returncode == 0, **({"failed checks": failed} if failed else {})}
