"""A backbone that bitsandbytes treats as it does real ones."""

from pathlib import Path

import pytest
from tiny import SIZES, tiny_tokenizer
from transformers import AutoModelForCausalLM, MistralConfig


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of sizes that bitsandbytes would repack."""
    folder = tmp_path_factory.mktemp("wide")
    config = MistralConfig(**SIZES | {"intermediate_size": 128})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
