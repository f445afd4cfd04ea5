"""Tiny random models of the supported architectures, and data for them, built in the test."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    CohereConfig,
    FalconH1Config,
    Gemma3Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Zamba2Config,
)

SIZES = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def multimodal(**sizes: int) -> PretrainedConfig:
    """Gemma 3 from 4B on: a language model beside one that sees, each with a config of its own."""
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    sight |= {"num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
    return Gemma3Config(text_config=sizes, vision_config=sight, mm_tokens_per_image=4)


def several_streams(**sizes: int) -> PretrainedConfig:
    """Gemma 3n, whose layers read several states of each token."""
    layers = sizes["num_hidden_layers"]
    own = {"laurel_rank": 4, "altup_num_inputs": 2, "num_kv_shared_layers": 0}
    own |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": sizes["vocab_size"]}
    return Gemma3nTextConfig(
        **(sizes | own),
        layer_types=["full_attention"] * layers,
        activation_sparsity_pattern=[0.0] * layers,
    )


def granite(**sizes: int) -> PretrainedConfig:
    """Granite, which divides its logits."""
    return GraniteConfig(**sizes, logits_scaling=8.0, residual_multiplier=0.22)


def cohere(**sizes: int) -> PretrainedConfig:
    """Command-R, which multiplies its logits."""
    return CohereConfig(**sizes, logit_scale=0.0625, pad_token_id=0)


def falcon(**sizes: int) -> PretrainedConfig:
    """Falcon-H1, which multiplies its logits, and whose layers have a second kind of memory."""
    own = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16}
    return FalconH1Config(**(sizes | own), mamba_chunk_size=16, lm_head_multiplier=0.25)


def zamba(**sizes: int) -> PretrainedConfig:
    """Zamba 2, every other layer of which has the same weights for its attention."""
    kinds = ["mamba", "hybrid"] * 2
    own = {"layers_block_type": kinds, "layer_types": kinds, "num_mem_blocks": 1}
    own |= {"n_mamba_heads": 4, "mamba_d_state": 16, "adapter_rank": 4, "pad_token_id": 0}
    return Zamba2Config(**(sizes | own), mamba_ngroups=1, chunk_size=16)


CONFIGS: dict[str, Callable[..., PretrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
    "gemma3_text": Gemma3TextConfig,
    "gemma3": multimodal,
    "gpt_neox": GPTNeoXConfig,
    "granite": granite,
    "cohere": cohere,
    "falcon_h1": falcon,
    "zamba2": zamba,
}

NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": torch.bfloat16,
}


def tiny_model(kind: str = "mistral", seed: int = 0, **sizes: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(CONFIGS[kind](**(SIZES | sizes))).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with a beginning and an end; no chat template of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def save_tiny(folder: Path, kind: str = "mistral", seed: int = 0, **sizes: int) -> Path:
    """A backbone folder as `niwfctl init --model` takes it."""
    tiny_model(kind, seed, **sizes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_quantized(folder: Path, full: Path, **form: object) -> Path:
    """A backbone folder whose files hold quantized weights, as others publish them.

    Args:
        full: a folder with the weights in 16 bits.
        form: arguments of `BitsAndBytesConfig`.
    """
    options = {"dtype": torch.bfloat16, "device_map": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        full, quantization_config=BitsAndBytesConfig(**form), **options
    )
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_data(path: Path, rows: int = 40, word: str = "apple") -> Path:
    """Alpaca records that differ from row to row."""
    records = (
        {"instruction": f"Say {word} {index}.", "input": "", "output": f"{word} is {index * 7}"}
        for index in range(rows)
    )
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
