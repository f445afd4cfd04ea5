"""G1 and G2: what is committed never changes, and the bare backbone is never touched."""

from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import pytest
import torch
from conftest import QUICK, crowd
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import NF4, SIZES, write_data
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.field.region import Region
from niwfctl.repository import Repository
from niwfctl.repository.model import Model
from niwfctl.repository.regions import load_region

WORDS = ["apple", "peach", "mango", "grape", "lemon", "melon"]
WORDS += ["cherry", "fig", "olive", "date", "prune", "onion"]
token_rows = st.lists(st.integers(0, SIZES["vocab_size"] - 1), min_size=2, max_size=24)
commits = st.integers(0, len(WORDS) - 1)


@dataclass(frozen=True)
class History:
    """Capabilities committed one after another, and the repository as each commit left it."""

    quant: str
    stages: list[Path]

    def region(self, stage: int, name: str) -> Region:
        """A region, read anew."""
        repository = Repository.open(self.stages[stage])
        (entry,) = repository.capability(name).regions
        return load_region(repository, entry)


@pytest.fixture(scope="module", params=["none", "nf4"])
def history(request, tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> History:
    folder = tmp_path_factory.mktemp(request.param)
    path, stages = folder / "repository", []
    crowd(Repository.init(path, model=str(backbone), dim=8, quant=request.param))
    for word in WORDS:
        repository = Repository.open(path)
        repository.train(word, [write_data(folder / f"{word}.jsonl", word=word)], QUICK)
        repository.commit([word], f"Add {word}")
        stages.append(copytree(path, folder / f"after-{word}"))
    return History(request.param, stages)


@pytest.fixture(scope="module")
def models(history: History) -> list[Model]:
    """Each stage's model with that stage's own capability active, then the last stage's model."""
    return [
        Repository.open(path).load(word)
        for path, word in zip([*history.stages, history.stages[-1]], [*WORDS, None], strict=True)
    ]


@pytest.fixture(scope="module")
def bare(history: History, backbone: Path) -> torch.nn.Module:
    """The backbone as transformers loads it, without any of ours."""
    quantized = {"quantization_config": BitsAndBytesConfig(**NF4)} if history.quant == "nf4" else {}
    model = AutoModelForCausalLM.from_pretrained(
        backbone, dtype=torch.bfloat16, device_map="cpu", **quantized
    )
    for module in model.modules():  # bitsandbytes' repacking for AVX512 fails on such small sizes
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def logits(adapter: FieldAdapter, tokens: Tensor) -> Tensor:
    with torch.no_grad(), adapter.prompts(torch.ones_like(tokens, dtype=torch.bool)):
        return adapter.model(tokens).logits


def coordinates(region: Region, seed: int) -> Tensor:
    """A thousand places: in the cell, around it, and far outside."""
    random = torch.Generator().manual_seed(seed)
    inside, normal = region.cell.sample(400, seed), torch.randn(600, 8, generator=random).double()
    return torch.cat([inside, region.cell.mean + 3 * normal[:300], 10.0**6 * normal[300:]])


def test_gates_and_weights_are_equal_bit_for_bit_after_every_later_commit(history: History) -> None:
    for own, word in enumerate(WORDS):
        first = history.region(own, word)
        z = coordinates(first, own)
        assert len(z) == 1000
        gates = first.gates(z)
        changes = [dict(first.weight_changes(z[place])) for place in (0, 500, 999)]
        assert any(change.any() for change in changes[0].values())
        for stage in range(own + 1, len(WORDS)):
            again = history.region(stage, word)
            assert torch.equal(again.gates(z), gates), (word, stage)
            for place, before in zip((0, 500, 999), changes, strict=True):
                after = dict(again.weight_changes(z[place]))
                assert after.keys() == before.keys()
                assert all(torch.equal(after[name], before[name]) for name in before), (word, stage)


@settings(deadline=None, max_examples=40)
@given(own=commits, seed=st.integers(0, 2**31 - 1), reach=st.floats(0, 1e6))
def test_gates_anywhere_are_those_of_the_capabilitys_own_commit(
    history: History, own: int, seed: int, reach: float
) -> None:
    z = torch.randn(50, 8, generator=torch.Generator().manual_seed(seed)) * reach
    first, last = history.region(own, WORDS[own]), history.region(-1, WORDS[own])
    assert torch.equal(first.gates(z), last.gates(z))


def test_logits_are_equal_bit_for_bit_after_every_later_commit(history: History) -> None:
    tokens = torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(1))
    recorded: dict[str, Tensor] = {}
    for path, word in zip(history.stages, WORDS, strict=True):
        model = Repository.open(path).load(word)
        recorded[word] = logits(model.adapter, tokens)
        for name, before in recorded.items():
            model.use(name)
            assert torch.equal(logits(model.adapter, tokens), before), (name, word)
    distinct = {before.float().numpy().tobytes() for before in recorded.values()}
    assert len(distinct) == len(WORDS)


@settings(deadline=None, max_examples=40)
@given(own=commits, row=token_rows)
def test_logits_of_any_prompt_are_those_of_the_capabilitys_own_commit(
    models: list[Model], own: int, row: list[int]
) -> None:
    tokens = torch.tensor([row])
    models[-1].use(WORDS[own])
    assert torch.equal(logits(models[-1].adapter, tokens), logits(models[own].adapter, tokens))


@settings(deadline=None, max_examples=25)
@given(row=token_rows)
def test_without_an_active_capability_the_logits_are_the_bare_backbones_bit_for_bit(
    history: History, models: list[Model], bare: torch.nn.Module, row: list[int]
) -> None:
    tokens, model = torch.tensor([row]), models[-1]
    with torch.no_grad():
        expected = bare(tokens).logits
    model.use(None)
    assert torch.equal(logits(model.adapter, tokens), expected)
    model.use("apple")
    adapted = logits(model.adapter, tokens)
    model.use(None)
    assert torch.equal(logits(model.adapter, tokens), expected)
    assert not torch.equal(adapted, expected)


def test_a_loaded_region_asks_for_no_gradient(history: History) -> None:
    for word in WORDS:
        region = history.region(-1, word)
        tensors = [*region.generator.parameters(), *region.tensors().values()]
        tensors += [tensor for basis in region.bases for tensor in basis.tensors().values()]
        assert len(tensors) > 4
        assert not any(tensor.requires_grad for tensor in tensors)
        assert not region.gates(region.cell.mean.requires_grad_(True)).requires_grad


def test_training_writes_to_no_committed_object(history: History, tmp_path: Path) -> None:
    repository = Repository.open(copytree(history.stages[-1], tmp_path / "repository"))
    objects = {path: path.read_bytes() for path in map(repository.store.path, repository.store)}
    repository.train("extra", [write_data(tmp_path / "extra.jsonl", word="extra")], QUICK)
    assert {path: path.read_bytes() for path in objects} == objects
    assert set(repository.store) == {path.name for path in objects}
    assert all(path.stat().st_mode & 0o222 == 0 for path in objects)
