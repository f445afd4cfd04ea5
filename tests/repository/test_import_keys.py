"""LoRAs whose weights have other keys than PEFT gives them today."""

from collections.abc import Callable
from pathlib import Path

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from niwfctl.backbone.sites import decoder_path, find_sites
from niwfctl.errors import FormatError
from niwfctl.repository import Repository
from niwfctl.repository.adapters import WEIGHTS, read_adapter, read_config


def before_4_52(key: str) -> str:
    return key.replace(".model.language_model.", ".language_model.model.")


def with_the_name_in_memory(key: str) -> str:
    return key.replace(".weight", ".default.weight")


@pytest.mark.parametrize(
    ("kind", "rename"), [("gemma3", before_4_52), ("mistral", with_the_name_in_memory)]
)
def test_keys_of_other_versions_give_the_change_that_peft_computes(
    kind: str, rename: Callable[[str], str], tmp_path: Path
) -> None:
    sites = find_sites(tiny_model(kind), 1)
    above = r".*(?<!encoder)\.layers\.[123]\..*_proj"
    alphas = {"q_proj": 5}
    config = LoraConfig(target_modules=above, alpha_pattern=alphas, init_lora_weights=False)
    get_peft_model(tiny_model(kind), config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    assert all(rename(key) != key for key in tensors)
    save_file({rename(key): value for key, value in tensors.items()}, tmp_path / WEIGHTS)
    peft = PeftModel.from_pretrained(tiny_model(kind, seed=1), tmp_path).get_base_model()
    decoder = decoder_path(peft)
    adapter = read_adapter(tmp_path, read_config(tmp_path), decoder, sites)
    for site in sites:
        basis = adapter.basis.up[site.name].float() @ adapter.basis.down[site.name].float()
        expected = peft.get_submodule(f"{decoder}.{site.name}").get_delta_weight("default").detach()
        assert (adapter.scale * basis - expected).norm() <= 0.005 * expected.norm()
        assert expected.any()


def test_a_factor_under_two_names_is_refused(
    fresh: Repository, copy: Callable[..., Path], data: Path
) -> None:
    def twice(tensors: dict) -> None:
        tensors |= {with_the_name_in_memory(key): value * 2 for key, value in tensors.items()}

    with pytest.raises(FormatError, match=r"has A of model\.layers\.1.* under two names"):
        fresh.import_adapter(copy(twice), "apple", [data])
