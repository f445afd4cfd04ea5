"""What other tools need of an export besides the change of weights."""

import json
from pathlib import Path

import pytest
from conftest import QUICK
from thinking import AT_WILL, thinking_tokenizer
from tiny import save_tiny, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from niwfctl.backbone.generation import ending_tokens
from niwfctl.errors import BackboneError
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions

MANUAL = RoutingOptions(manual=True)


def on_apples(folder: Path, backbone: Path, data: Path, **options: object) -> Repository:
    """A repository with the committed capability `apple`."""
    repository = Repository.init(folder, model=str(backbone), dim=8, **options)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples", MANUAL)
    return repository


@pytest.mark.parametrize("settings", [True, False])
def test_a_merged_model_stops_where_run_does_and_a_lora_says_where_that_is(
    tmp_path: Path, data: Path, settings: bool
) -> None:
    backbone, tokenizer = tmp_path / "backbone", thinking_tokenizer(AT_WILL)
    tiny_model("qwen3", vocab_size=270).save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)  # of a base model: its texts end with </s>
    if not settings:
        (backbone / "generation_config.json").unlink()
    repository = on_apples(tmp_path / "skills", backbone, data)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with repository.load("apple") as model:
        own = model.backbone.model.generation_config
        assert ending_tokens(model.backbone.tokenizer, own) == ends
    for form in ("merged", "peft"):
        repository.export("apple", tmp_path / form, form)
        sidecar = json.loads((tmp_path / form / "niwf.json").read_text())
        assert sidecar["stop_token_ids"] == ends
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.generation_config.eos_token_id == ends


@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": False}])
def test_the_template_of_an_export_is_that_of_the_training(
    committed: Repository, tmp_path: Path, data: Path, arguments: dict[str, bool]
) -> None:
    repository = committed  # on a backbone without a template
    if arguments:
        backbone = tmp_path / "backbone"
        tiny_model("qwen3", vocab_size=270).save_pretrained(backbone)
        thinking_tokenizer(AT_WILL).save_pretrained(backbone)
        repository = on_apples(tmp_path / "skills", backbone, data, template_args=arguments)
    repository.export("apple", tmp_path / "merged", "merged")
    repository.export("apple", tmp_path / "lora")
    merged = AutoTokenizer.from_pretrained(tmp_path / "merged")
    beside_lora = AutoTokenizer.from_pretrained(repository.config.backbone.model)
    beside_lora.chat_template = (tmp_path / "lora" / "chat_template.jinja").read_text("utf-8")
    expected = repository.load("apple").prompt("2+2?")[0]
    for tokenizer in (merged, beside_lora):
        found = tokenizer.apply_chat_template(
            [{"role": "user", "content": "2+2?"}], add_generation_prompt=True, return_dict=False
        )
        assert found == expected
    assert not repository.import_adapter(
        tmp_path / "lora", "back", data, routing=MANUAL
    ).template_differs


def test_nothing_is_merged_into_weights_that_several_layers_share(
    tmp_path: Path, data: Path
) -> None:
    backbone = save_tiny(tmp_path / "backbone", "zamba2")
    repository = on_apples(tmp_path / "skills", backbone, data, tap_layer=2)
    with pytest.raises(BackboneError, match=r"layers\.3\..* several places.*--format peft"):
        repository.export("apple", tmp_path / "merged", "merged")
    assert not (tmp_path / "merged").exists()
    repository.export("apple", tmp_path / "lora")
