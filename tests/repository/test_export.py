"""Exported capabilities, loaded by the tools they are for."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import Result

from niwfctl.errors import UsageError
from niwfctl.repository import Repository
from niwfctl.repository.export import export, frozen
from niwfctl.repository.regions import load_region

PROMPT = "Say apple 3."


def ours(repository: Repository, tokens: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Logits with the gates of one coordinate, whatever the prompt."""
    model = repository.load("apple")
    gates = model.adapter.active.gates
    model.adapter.active.gates = lambda _: gates(z[None].float()).expand(len(tokens), -1, -1)
    with torch.no_grad(), model.adapter.prompts(torch.ones_like(tokens, dtype=torch.bool)):
        return model.backbone.model(tokens).logits.float()


@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_plain_peft_gives_the_logits_of_the_same_coordinate(
    committed: Repository, backbone: Path, tmp_path: Path, prompt: str | None
) -> None:
    report = export(committed, "apple", "peft", tmp_path / "lora", prompt)
    assert report["rank"] == 8
    base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16)
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
    assert off <= 0.08 * expected.std()  # both sides round to bf16, in another order
    assert (found - bare.float()).abs().max() > 5 * off


def test_merged_weights_are_the_backbone_plus_the_change(
    committed: Repository, backbone: Path, tmp_path: Path
) -> None:
    export(committed, "apple", "merged", tmp_path / "merged", None)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    before = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16).state_dict()
    change = frozen(committed, committed.capability("apple"), None)
    factors = {name: change.at(name) for name in change.names}
    for key, weight in merged.items():
        name = key.removeprefix("model.").removesuffix(".weight")
        change = factors[name][1] @ factors[name][0] if name in factors else 0.0
        assert torch.equal(weight, (before[key].float() + change).to(torch.bfloat16)), key


def test_a_folder_that_is_not_empty_is_left_alone(committed: Repository, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        export(committed, "apple", "peft", tmp_path, None)
    assert [file.name for file in tmp_path.iterdir()] != []


def test_the_command_reports_what_it_wrote(
    niwfctl: Callable[..., Result], committed: Repository, tmp_path: Path
) -> None:
    done = niwfctl("-C", committed.path, "export", "apple", tmp_path / "lora", "--json")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    assert niwfctl("-C", committed.path, "export", "apple", "x", "--format", "y").exit_code == 2
