"""Programs that set torch's default dtype, as many do before they load a model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import write_data

from niwfctl.records import Message
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.compose import Recipe
from niwfctl.training.data import read_examples

MANUAL = RoutingOptions(manual=True)
PROMPTS = ["Say apple 3.", [Message("user", "What is it?")]]


@pytest.fixture(params=["bfloat16", "float16", "float64"])
def chosen(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    yield getattr(torch, request.param)
    torch.set_default_dtype(torch.float32)


def made(repository: Repository, folder: Path, data: Path) -> dict[str, object]:
    """What a program gets in a repository with the capability `apple`."""
    pears = write_data(folder / "pear.jsonl", word="pear")
    options = QUICK.model_copy(update={"reuse": ("auto",)})
    repository.train("pear", pears, options)
    repository.commit("pear", "Pears", MANUAL)
    repository.train("plum", pears, QUICK.model_copy(update={"reuse": ("apple",), "alpha": 8.0}))
    repository.commit("plum", "Plums", MANUAL)
    repository.export("apple", folder / "lora", data=data)
    repository.import_adapter(folder / "lora", "lora", data, routing=MANUAL)
    for method in ("linear", "svd", "ties"):
        recipe = Recipe(weights=(0.7, 0.3), method=method)
        repository.compose(["apple", "pear"], method, recipe)
    found: dict[str, object] = {
        name: [ref.oid for ref in capability.objects]
        for name, capability in repository.atlas().items()
    }
    with repository.load("apple") as model:
        found["z"] = model.coordinates(PROMPTS)
        found["loss"] = model.score(read_examples(data), 4).losses
        model.use("linear")
        found["composed"] = model.answers(PROMPTS, 6)
        model.route()
        found["routed"] = model.answers(PROMPTS, 6)
        model.use_each(["linear", "pear"])
        found["each"] = model.answers(PROMPTS, 6)
        found["owners"] = model.owners(PROMPTS)
    found["map"] = repository.map(PROMPTS[:1]).prompts
    return found


def test_whatever_dtype_a_program_chose_the_same_bits_are_trained_imported_and_read(
    committed: Repository, tmp_path: Path, data: Path, chosen: torch.dtype
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    other = Repository.clone(str(committed.path), tmp_path / "other")
    expected = made(committed, first, data)
    torch.set_default_dtype(chosen)
    found = made(other, second, data)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[key], value), key
        else:
            assert found[key] == value, key
    assert other.verify(deep=True).ok


def test_a_repository_that_is_made_under_another_dtype_has_the_same_coordinates(
    fresh: Repository, backbone: Path, tmp_path: Path, chosen: torch.dtype
) -> None:
    torch.set_default_dtype(chosen)
    again = Repository.init(tmp_path / "again", model=str(backbone), dim=8)
    assert again.config.field == fresh.config.field
    assert again.config.backbone.witness == fresh.config.backbone.witness
