"""Many capabilities, cheaply: copies of one training, each with weights of its own."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from histories import DIM
from loras import ABOVE_TAP, TOKENS
from safetensors.torch import load_file, save_file
from torch import Tensor

from niwfctl.repository import Repository
from niwfctl.repository.adapters import WEIGHTS
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.regions import load_region
from niwfctl.training.checkpoint import load, save

Train = Callable[..., None]
Add = Callable[..., str]
Crowd = Callable[..., Repository]
Evidence = Callable[[Repository, str], dict[str, bytes]]


@pytest.fixture(scope="session")
def pattern(tmp_path_factory: pytest.TempPathFactory, _trained: Path) -> Path:
    """The checkpoint that capabilities are made of."""
    path = tmp_path_factory.mktemp("pattern") / "checkpoint.safetensors"
    return Path(shutil.copy(Repository.open(_trained).trainings.checkpoint("apple"), path))


@pytest.fixture(scope="session")
def train(pattern: Path) -> Train:
    """Puts finished trainings into a repository; equal shifts give equal bases."""

    def put(repository: Repository, *names: str, shift: float = 0.0) -> None:
        run, tensors = load(pattern)
        tensors = {k: v + shift if k.startswith("bases.") else v for k, v in tensors.items()}
        for name in names:
            record = run.model_copy(update={"name": name, "id": f"{name}{shift}"})
            save(repository.trainings.checkpoint(name), record, tensors)

    return put


@pytest.fixture(scope="session")
def add(train: Train) -> Add:
    """Commits a capability; returns the commit's id."""

    def commit(repository: Repository, name: str, shift: float = 0.0) -> str:
        train(repository, name, shift=shift)
        return repository.commit([name], f"Add {name}").commit

    return commit


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A bare repository in a folder."""
    path = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", path], check=True)
    return path


@pytest.fixture
def shared(committed: Repository, remote: Path) -> Repository:
    """A repository with a remote to push to."""
    committed.git.plain("branch", "-M", "main")
    committed.git.plain("remote", "add", "origin", str(remote))
    return committed


@pytest.fixture(scope="session")
def evidence() -> Evidence:
    """The bits of a capability's gates at random coordinates, and of ΔW at one of them."""

    def bits(repository: Repository, name: str) -> dict[str, bytes]:
        (entry,) = repository.capability(name).regions
        region = load_region(repository, entry)
        z = torch.randn(200, region.cell.dim, generator=torch.Generator().manual_seed(3))
        found: dict[str, Tensor] = {"gates": region.gates(z), **dict(region.weight_changes(z[0]))}
        return {key: tensor.numpy().tobytes() for key, tensor in found.items()}

    return bits


@pytest.fixture
def crowd(trained: Repository) -> Crowd:
    """Commits capabilities that lie at given places, of one training's weights."""
    run, tensors = load(trained.trainings.checkpoint("apple"))
    shutil.rmtree(trained.trainings.root / "apple")

    def add(
        name: str,
        place: float,
        repository: Repository = trained,
        odd: tuple[int, float] = (0, 0.0),  # how many of its coordinates lie somewhere else
        mode: str = "new",
        **options,
    ) -> Repository:
        random = torch.Generator().manual_seed(sum(name.encode()))
        own = {
            key: torch.randn(3 * len(tensors[key]), DIM, generator=random) * 0.3 + place
            for key in ("coordinates", "held_out")
        }
        own["coordinates"][: odd[0]] += odd[1] - place
        how = run.options.model_copy(update={"mode": mode})
        record = run.model_copy(update={"name": name, "id": f"{name} {place}", "options": how})
        save(repository.trainings.checkpoint(name), record, tensors | own)
        repository.commit([name], f"Add {name}", RoutingOptions(**options))
        return repository

    return add


@pytest.fixture
def two(fresh: Repository, add: Add) -> Repository:
    """`x` and then `y`, on the branch main."""
    fresh.git.plain("branch", "--move", "--force", "main")
    add(fresh, "x", 0.1)
    add(fresh, "y", 0.2)
    return fresh


@pytest.fixture(scope="session")
def lora(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Path:
    """A LoRA that plain PEFT trained for some steps, with ranks and alphas of its own."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32),
        LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "v_proj", "down_proj"],
            layers_to_transform=ABOVE_TAP,
            rank_pattern={"v_proj": 6},
            alpha_pattern={r"layers\.2\.mlp\.down_proj": 3},
        ),
    )
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.03)
    for _ in range(20):
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("lora") / "adapter"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(lora: Path, tmp_path: Path) -> Callable[..., Path]:
    """The LoRA with other tensors or other entries in its configuration."""

    def make(
        change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None, **entries: object
    ) -> Path:
        folder = tmp_path / "copy"
        folder.mkdir()
        tensors = load_file(lora / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)
        config = json.loads((lora / "adapter_config.json").read_text()) | entries
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    return make
