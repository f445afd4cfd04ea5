"""Exported capabilities, loaded by the tools they are for."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK, crowd
from faults import ended, start
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import NF4, save_quantized, save_tiny, tiny_model, tiny_tokenizer, write_data
from transformers import AutoModelForCausalLM
from typer.testing import Result

from niwfctl.errors import StorageError, UsageError
from niwfctl.field.frozen import FrozenSum
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.compose import Recipe
from niwfctl.repository.regions import load_region
from niwfctl.training.data import read_examples

PROMPT = "Say apple 3."


def ours(repository: Repository, tokens: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Logits with the gates of one coordinate, whatever the prompt; in float32."""
    model = repository.load("apple")
    model.backbone.model.float()
    model.adapter.active.factors = model.adapter.active.factors.for_single_rows()
    gates = model.adapter.active.gates
    model.adapter.active.gates = lambda _: gates(z[None].float()).expand(len(tokens), -1, -1)
    with torch.no_grad(), model.adapter.prompts(torch.ones_like(tokens, dtype=torch.bool)):
        return model.backbone.model(tokens).logits.float()


@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_plain_peft_gives_the_logits_of_the_same_coordinate(
    committed: Repository, backbone: Path, tmp_path: Path, prompt: str | None
) -> None:
    report = committed.export("apple", tmp_path / "lora", at=prompt)
    assert report.rank == 8
    base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16).float()
    loaded = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    tokens = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(1))
    (entry,) = committed.capability("apple").regions
    mean = load_region(committed, entry).cell.mean
    z = mean if prompt is None else committed.load(None).coordinate(prompt)
    expected = ours(committed, tokens, z)
    with torch.no_grad():
        found = loaded(tokens).logits.float()
        bare = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16)(tokens).logits
    off = (found - expected).abs().max()
    assert off <= 1e-4 * expected.std()
    assert (found - bare.float()).abs().max() > 5 * off


def test_peft_finds_the_linears_of_a_decoder_that_has_another_path(
    data: Path, tmp_path: Path
) -> None:
    backbone = save_tiny(tmp_path / "pythia", "gpt_neox")
    repository = Repository.init(tmp_path / "skills", model=str(backbone), dim=8)
    crowd(repository)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples")
    repository.export("apple", tmp_path / "lora")
    base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16).float()
    loaded = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    tokens = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(1))
    (entry,) = repository.capability("apple").regions
    expected = ours(repository, tokens, load_region(repository, entry).cell.mean)
    with torch.no_grad():
        off = (loaded(tokens).logits.float() - expected).abs().max()
    assert off <= 1e-4 * expected.std()
    repository.import_adapter(tmp_path / "lora", "back", [data])
    assert repository.capability("back").regions[0].run.adapter.rounding < 0.01


def test_merged_weights_are_the_backbone_plus_the_change(
    committed: Repository, backbone: Path, tmp_path: Path
) -> None:
    committed.export("apple", tmp_path / "merged", "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    before = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16).state_dict()
    region = load_region(committed, committed.capability("apple").regions[0])
    change = FrozenSum([(1.0, region, region.cell.mean)])
    factors = {name: change.at(name) for name in change.names}
    for key, weight in merged.items():
        name = key.removeprefix("model.").removesuffix(".weight")
        change = factors[name][1] @ factors[name][0] if name in factors else 0.0
        assert torch.equal(weight, (before[key].float() + change).to(torch.bfloat16)), key


def in_4_bits(folder: Path, backbone: Path, data: Path) -> Repository:
    """A repository with a capability that was trained on weights in 4 bits."""
    repository = Repository.init(folder, model=str(backbone), quant="nf4", dim=8)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples", RoutingOptions(manual=True))
    return repository


@pytest.mark.parametrize(("dtype", "options"), [("float32", {}), ("float16", {"at": PROMPT})])
def test_what_was_trained_in_4_bits_is_merged_into_the_weights_of_the_files(
    niwfctl: Callable[..., Result],
    data: Path,
    tmp_path: Path,
    dtype: str,
    options: dict[str, str],
) -> None:
    tiny_model().to(getattr(torch, dtype)).save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    repository = in_4_bits(tmp_path / "skills", tmp_path / "backbone", data)
    assert not repository.export("apple", tmp_path / "lora", **options).into_originals
    assert repository.export("apple", tmp_path / "merged", "merged", **options).into_originals
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "backbone", dtype="auto").state_dict()
    assert str(merged.dtype) == f"torch.{dtype}"
    assert not hasattr(merged.config, "quantization_config")
    factors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    changed = 0
    for key, weight in merged.state_dict().items():
        path = f"base_model.model.{key.removesuffix('.weight')}"
        expected = before[key].float()
        if f"{path}.lora_A.weight" in factors:
            up, down = (factors[f"{path}.lora_{which}.weight"] for which in "BA")
            expected = expected + up @ down
        torch.testing.assert_close(weight, expected.to(weight.dtype))
        changed += not torch.equal(weight, before[key])
    assert changed == len(factors) / 2
    done = niwfctl("-C", repository.path, "export", "apple", tmp_path / "m", "--format", "merged")
    assert done.exit_code == 0 and "training saw them in NF4" in done.stdout


def test_nothing_is_merged_into_files_that_are_in_4_bits_themselves(
    backbone: Path, data: Path, tmp_path: Path
) -> None:
    stored = save_quantized(tmp_path / "stored", backbone, **NF4)
    repository = in_4_bits(tmp_path / "skills", stored, data)
    with pytest.raises(UsageError, match=r"are quantized themselves \(nf4\).*--format peft"):
        repository.export("apple", tmp_path / "merged", "merged")
    assert not (tmp_path / "merged").exists()


def test_of_several_regions_only_those_that_act_on_a_prompt_are_exported(
    committed: Repository, data: Path, tmp_path: Path
) -> None:
    extend = QUICK.model_copy(update={"mode": "extend", "seed": 1})
    committed.train("apple", [data], extend)
    committed.commit(["apple"], "More apples")
    committed.compose(["apple"], "both", Recipe(method="linear"))
    for name in ("apple", "both"):
        with pytest.raises(UsageError, match=f"'{name}' has several regions.*--at PROMPT"):
            committed.export(name, tmp_path / name)
        committed.export(name, tmp_path / name, at=PROMPT)
        written = json.loads((tmp_path / name / "niwf.json").read_text())["regions"]
        assert {one["id"] for one in written} <= {e.id for e in committed.atlas()["apple"].regions}


def test_all_exported_files_have_one_mode(committed: Repository, tmp_path: Path) -> None:
    committed.export("apple", tmp_path / "merged", "merged")
    assert len({file.stat().st_mode for file in (tmp_path / "merged").iterdir()}) == 1


def test_a_folder_that_is_not_empty_is_left_alone(committed: Repository, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        committed.export("apple", tmp_path)
    assert (tmp_path / "mine").read_text() == "keep"


def test_other_tools_find_a_plain_lora_and_its_provenance_lies_beside_it(
    committed: Repository, tmp_path: Path
) -> None:
    committed.export(f"apple@{committed.git.head()[:10]}", tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_bytes())
    modules = config.pop("target_modules")
    assert config == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": committed.config.backbone.model,
        "inference_mode": True,
        "r": 8,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
    }
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert {f"base_model.model.{module}.lora_{w}.weight" for module in modules for w in "AB"} == (
        tensors.keys()
    )
    assert {min(tensor.shape) for tensor in tensors.values()} == {8}
    with safe_open(tmp_path / "lora" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    (entry,) = committed.capability("apple").regions
    provenance = json.loads((tmp_path / "lora" / "niwf.json").read_bytes())
    mean = load_region(committed, entry).cell.mean
    assert provenance["regions"] == [
        {"id": entry.id, "object": entry.region.oid, "weight": 1.0, "coordinate": mean.tolist()}
    ]
    assert provenance["backbone"]["identity"] == committed.config.backbone.identity
    assert (provenance["name"], provenance["gates_at"]) == ("apple", "mean")
    assert provenance["commit"] == committed.git.head()


@pytest.mark.parametrize("form", ["peft", "merged", "gguf-lora"])
def test_it_tells_what_freezing_the_gates_costs(
    committed: Repository, tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_data(tmp_path / "other.jsonl", rows=20)
    freezing = committed.export("apple", tmp_path / "out", form, at=PROMPT, data=[data]).freezing
    model = committed.load("apple")
    examples = read_examples([str(data)])
    z = model.coordinate(PROMPT)
    assert freezing.live == model.score(examples).perplexity
    gates = model.adapter.active.gates
    model.adapter.active.gates = lambda many: gates(z[None]).expand(len(many), -1, -1)
    score = model.score(examples)
    assert freezing.frozen == pytest.approx(score.perplexity, rel=1e-4)
    assert freezing.frozen != freezing.live
    assert (freezing.rows, freezing.tokens) == (len(examples), score.tokens)
    assert not caplog.messages


def test_what_freezing_costs_on_rows_that_were_learned_is_told_with_a_warning(
    committed: Repository, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    committed.export("apple", tmp_path / "lora", data=[data])
    (said,) = caplog.messages
    assert "'apple' was trained on most rows" in said and "`niwfctl show apple`" in said


def test_gates_that_are_constant_lose_nothing_by_being_frozen(
    fresh: Repository, committed: Repository, data: Path, tmp_path: Path
) -> None:
    committed.export("apple", tmp_path / "lora")
    fresh.import_adapter(tmp_path / "lora", "apple", [data])
    freezing = fresh.export("apple", tmp_path / "again", data=[data]).freezing
    assert freezing.frozen == pytest.approx(freezing.live, rel=1e-6)


def test_a_sum_of_capabilities_is_frozen_as_a_sum(
    committed: Repository, data: Path, tmp_path: Path
) -> None:
    committed.compose(["apple", "apple"], "more", Recipe(weights=(1.5, -0.25)))
    done = committed.export("more", tmp_path / "lora", data=[data])
    assert done.rank == 8
    assert done.freezing.frozen == pytest.approx(done.freezing.live, rel=0.05)
    weights = [
        one["weight"]
        for one in json.loads((tmp_path / "lora" / "niwf.json").read_bytes())["regions"]
    ]
    assert weights == [1.5, -0.25]


@pytest.mark.parametrize("form", ["peft", "merged", "gguf-lora"])
def test_a_full_disk_leaves_nothing_behind(
    committed: Repository, tmp_path: Path, form: str
) -> None:
    target = tmp_path / "new" / "out"

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.raises(StorageError):
            committed.export("apple", target, form)

    assert ended(start(fill)) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"committed"}


def test_the_command_reports_what_it_wrote(
    niwfctl: Callable[..., Result], committed: Repository, tmp_path: Path
) -> None:
    done = niwfctl("-C", committed.path, "export", "apple", tmp_path / "lora", "--json")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    assert niwfctl("-C", committed.path, "export", "apple", "x", "--format", "y").exit_code == 2
