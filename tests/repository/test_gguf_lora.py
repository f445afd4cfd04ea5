"""LoRAs for llama.cpp: what its models become with them, as transformers reads such models."""

import json
from pathlib import Path

import gguf
import pytest
import torch
from tiny import SIZES, tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2MoeConfig

from niwfctl.backbone.sites import find_sites
from niwfctl.errors import BackboneError, UsageError
from niwfctl.field.frozen import FrozenSum
from niwfctl.repository import Repository
from niwfctl.repository.gguf_lora import Layout, write_gguf_lora
from niwfctl.repository.regions import load_region

THEIRS = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def in_their_order(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys as models of the Llama family have them in GGUF."""
    rows = torch.arange(len(weight)).reshape(heads, 2, -1).swapaxes(1, 2).flatten()
    return weight[rows]


def write_model(model: PreTrainedModel, name: str, file: Path, changes: dict[str, Tensor]) -> None:
    """A model as GGUF, with changes of weights added by the names they have there."""
    config, kind = model.config, gguf.MODEL_ARCH[name.upper()]
    writer = gguf.GGUFWriter(file, name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(model.get_submodule("model.layers.0.self_attn").head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, weight in model.state_dict().items():
        module = key.split(".")[-2]
        if name == "llama" and module in heads:
            weight = in_their_order(weight, heads[module])
        theirs = names.get_name(key, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(theirs, (weight + changes.pop(theirs, 0.0)).contiguous().numpy())
    assert not changes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_lora(file: Path) -> tuple[gguf.GGUFReader, dict[str, Tensor]]:
    """A LoRA's changes of weights as llama.cpp computes them: alpha over the rank of each B."""
    reader = gguf.GGUFReader(file)
    tensors = {one.name: torch.from_numpy(one.data.copy()) for one in reader.tensors}
    alpha = reader.get_field("adapter.lora.alpha").contents()
    changes = {}
    for key, up in tensors.items():
        name, _, which = key.rpartition(".")
        if which == "lora_b":
            changes[name] = alpha / up.shape[1] * up @ tensors[f"{name}.lora_a"]
    assert len(tensors) == 2 * len(changes)
    return reader, changes


@pytest.mark.parametrize("kind", THEIRS)
def test_a_gguf_model_with_the_lora_is_the_model_with_the_change(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind, **({"head_dim": 128} if kind == "qwen3" else {}))  # what is read back
    sites = find_sites(model, 1)
    factors = {
        site.name: (torch.randn(8, site.in_features), torch.randn(site.out_features, 8))
        for site in sites
    }
    write_gguf_lora(tmp_path / "lora.gguf", factors, Layout.of(model.config), "apple", "{}")
    _, changes = read_lora(tmp_path / "lora.gguf")
    assert len(changes) == len(sites)
    write_model(model, THEIRS[kind], tmp_path / "model.gguf", changes)
    changed = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    ).state_dict()
    for key, weight in model.state_dict().items():
        name = key.removeprefix("model.").removesuffix(".weight")
        change = factors[name][1] @ factors[name][0] if name in factors else 0.0
        assert torch.allclose(changed[key], weight + change, atol=1e-5), key


def test_a_capability_as_gguf_is_its_change_at_the_mean(
    committed: Repository, tmp_path: Path
) -> None:
    done = committed.export("apple", tmp_path / "a" / "apple.gguf", "gguf-lora")
    assert (done.format, done.rank) == ("gguf-lora", 8)
    assert done.bytes == (tmp_path / "a" / "apple.gguf").stat().st_size
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["apple.gguf"]
    reader, changes = read_lora(tmp_path / "a" / "apple.gguf")
    fields = {key: reader.get_field(key).contents() for key in reader.fields if "." in key}
    provenance = json.loads(fields.pop("niwf.provenance"))
    assert provenance["commit"] == committed.git.head()
    assert fields == {
        "GGUF.version": 3,
        "GGUF.tensor_count": 42,
        "GGUF.kv_count": 6,
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "apple",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    region = load_region(committed, committed.capability("apple").regions[0])
    change = FrozenSum([(1.0, region, region.cell.mean)])
    for name in change.names:
        down, up = change.at(name)
        _, layer, module = name.split(".", 2)
        short = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k"}
        if module in short:
            heads = SIZES["num_attention_heads" if "q_" in module else "num_key_value_heads"]
            theirs = changes[f"blk.{layer}.{short[module]}.weight"]
            assert torch.allclose(theirs, in_their_order(up @ down, heads), atol=1e-6)
        if module == "mlp.down_proj":
            theirs = changes[f"blk.{layer}.ffn_down.weight"]
            assert torch.allclose(theirs, up @ down, atol=1e-6)


def test_an_architecture_whose_layout_is_not_known_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"qwen2_moe .* convert_lora_to_gguf.py"):
        Layout.of(Qwen2MoeConfig())


def test_a_file_that_is_there_is_left_alone(committed: Repository, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_text("keep")
    with pytest.raises(UsageError, match="already exists"):
        committed.export("apple", file, "gguf-lora")
    with pytest.raises(UsageError, match="a folder is needed"):
        committed.export("apple", file / "apple.gguf", "gguf-lora")
    assert file.read_text() == "keep"
