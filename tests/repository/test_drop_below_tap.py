"""LoRAs on all layers, imported without the layers that no repository can change."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loras import ABOVE_TAP
from safetensors.torch import load_file, save_file
from typer.testing import Result

from niwfctl.errors import FormatError, UsageError
from niwfctl.repository import Repository
from niwfctl.repository.adapters import WEIGHTS, read_config
from niwfctl.repository.commit import RoutingOptions


@pytest.fixture
def whole(copy: Callable[..., Path], lora: Path) -> Path:
    """The LoRA with layer 0 changed as layer 1 is, but twice as much."""

    def extend(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if ".layers.1." in key]:
            factor = 2 if "lora_B" in key else 1
            tensors[key.replace(".layers.1.", ".layers.0.")] = tensors[key] * factor

    return copy(extend, layers_to_transform=[0, *ABOVE_TAP])


def test_a_lora_on_all_layers_is_imported_without_its_lowest_ones_if_that_is_asked(
    fresh: Repository, whole: Path, lora: Path, data: Path, niwfctl: Callable[..., Result]
) -> None:
    with pytest.raises(FormatError, match=r"adapts layer 0, .* or leave .* --drop-below-tap"):
        fresh.import_adapter(whole, "apple", [data])
    done = fresh.import_adapter(whole, "apple", [data], drop_below_tap=True)
    plain = fresh.import_adapter(lora, "plum", [data], routing=RoutingOptions(manual=True))
    dropped, kept = (one.capability.regions[0] for one in (done, plain))
    assert dropped.bases == kept.bases and dropped.run.perplexity == kept.run.perplexity
    assert done.adapter.dropped == (0,) and plain.adapter.dropped == ()
    changes = change_norms(lora)
    expected = (4 * changes[1] / (4 * changes[1] + sum(changes.values()))) ** 0.5
    assert done.adapter.lost == pytest.approx(expected, rel=1e-5)
    shown = " ".join(niwfctl("-C", fresh.path, "show", "apple").stdout.split())
    assert f"left out: layers 0, {expected:.0%} of its change by norm" in shown
    assert '"dropped"' not in fresh.capability("plum").dump()


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("harm", ["rank", "number", "size"])
def test_a_damaged_adapter_is_refused_whichever_layer_is_damaged(
    fresh: Repository, whole: Path, data: Path, layer: int, harm: str
) -> None:
    tensors = load_file(whole / WEIGHTS)
    key = next(key for key in tensors if f".layers.{layer}." in key and "lora_B" in key)
    if harm == "size":  # a square of it is 8 TB
        tensors[key] = torch.empty(0, 1 << 20)
        tensors[key.replace("lora_B", "lora_A")] = torch.empty(1 << 20, 0)
    else:
        tensors[key] = tensors[key][:, :-1].clone() if harm == "rank" else tensors[key] * math.nan
    save_file(tensors, whole / WEIGHTS)
    with pytest.raises(FormatError):
        fresh.import_adapter(whole, "apple", [data], drop_below_tap=True)
    assert not fresh.atlas()


def change_norms(folder: Path) -> dict[int, float]:
    """‖ΔW‖² by layer of a LoRA."""
    config, tensors = read_config(folder), load_file(folder / WEIGHTS)
    norms = dict.fromkeys(ABOVE_TAP, 0.0)
    for key in (key for key in tensors if "lora_A" in key):
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        change = tensors[key.replace("lora_A", "lora_B")] @ tensors[key] * config.scale(module)
        norms[int(module.split(".")[2])] += float(change.double().square().sum())
    return norms


def test_what_is_left_without_the_lowest_layers_has_to_be_measured(
    fresh: Repository, whole: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Say apple.\n" * 3)
    with pytest.raises(UsageError, match="give --data with --drop-below-tap"):
        fresh.import_adapter(whole, "apple", prompts=[prompts], drop_below_tap=True)
