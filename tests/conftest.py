"""Repositories on tiny backbones, shared by the tests."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from tiny import save_tiny, write_data
from typer.testing import CliRunner, Result

from niwfctl.cli.main import app
from niwfctl.repository import Repository
from niwfctl.training.run import TrainingOptions

QUICK = TrainingOptions(steps=3, batch_size=4, rank=2, val_split=0.2, lr=0.01)
HUB_COMMIT = "0123456789" * 4


@pytest.fixture(scope="session", autouse=True)
def _private_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache and a git identity of the tests' own; one thread, since tiny products gain by it."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("home")
    config = home / "gitconfig"
    config.write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n")
    os.environ |= {
        "NIWFCTL_CACHE": str(home / "cache"),
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "NIWFCTL_DEVICE": "cpu",
    }


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Mistral."""
    return save_tiny(tmp_path_factory.mktemp("backbone") / "mistral")


@pytest.fixture
def hub_cache(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an earlier download of owner/tiny left in the hub's cache; the hub cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--owner--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(HUB_COMMIT)
    return Path(shutil.copytree(backbone, root / "snapshots" / HUB_COMMIT))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty alpaca records."""
    return write_data(tmp_path_factory.mktemp("data") / "apple.jsonl")


def crowd(repository: Repository) -> None:
    """Lets capabilities of the same data lie on top of each other, as most tests have them."""
    config = repository.path / "niwf.toml"
    config.write_text(config.read_text().replace("max_shadow = 0.25", "max_shadow = 1.0"))
    repository.git.plain("commit", "--quiet", "--all", "--amend", "--no-edit")


@pytest.fixture(scope="session")
def _fresh(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Path:
    folder = tmp_path_factory.mktemp("fresh") / "repository"
    repository = Repository.init(folder, model=str(backbone), dim=8)
    crowd(repository)
    return repository.path


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory, _fresh: Path, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "repository"
    shutil.copytree(_fresh, folder)
    Repository.open(folder).train("apple", [data], QUICK)
    return folder


@pytest.fixture(scope="session")
def _committed(tmp_path_factory: pytest.TempPathFactory, _trained: Path) -> Path:
    folder = tmp_path_factory.mktemp("committed") / "repository"
    shutil.copytree(_trained, folder)
    Repository.open(folder).commit(["apple"], "Apples")
    return folder


@pytest.fixture
def fresh(tmp_path: Path, _fresh: Path) -> Repository:
    """A repository in which nothing is trained."""
    return Repository.open(shutil.copytree(_fresh, tmp_path / "fresh"))


@pytest.fixture
def trained(tmp_path: Path, _trained: Path) -> Repository:
    """A repository with the finished, uncommitted training `apple`."""
    return Repository.open(shutil.copytree(_trained, tmp_path / "trained"))


@pytest.fixture
def committed(tmp_path: Path, _committed: Path) -> Repository:
    """A repository with the committed capability `apple`."""
    return Repository.open(shutil.copytree(_committed, tmp_path / "committed"))


@pytest.fixture
def niwfctl() -> Callable[..., Result]:
    """Runs the command line: `niwfctl("-C", path, "status")`."""

    def run(*arguments: object, **options: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)

    return run
