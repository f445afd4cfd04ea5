"""What other tools need of an export besides the change of weights."""

import json
import shutil
from pathlib import Path

import gguf
import pytest
import torch
from conftest import QUICK
from loras import ABOVE_TAP, TOKENS
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from thinking import AT_WILL, thinking_tokenizer
from tiny import save_tiny, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from niwfctl.backbone.generation import ending_tokens
from niwfctl.errors import BackboneError
from niwfctl.repository import Repository
from niwfctl.repository.adapters import WEIGHTS
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


@pytest.fixture(scope="module")
def on_falcon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository on Falcon-H1, in whose models PEFT takes no LoRA of `out_proj`."""
    folder = tmp_path_factory.mktemp("falcon")
    backbone = save_tiny(folder / "backbone", "falcon_h1")
    return Repository.init(folder / "skills", model=str(backbone), dim=8, tap_layer=1).path


def test_what_peft_would_not_load_is_refused_as_a_lora(
    on_falcon: Path, tmp_path: Path, data: Path
) -> None:
    repository = Repository.open(on_falcon)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples", MANUAL)
    with pytest.raises(BackboneError, match=r"layers\.1\.mamba\.out_proj.*--format merged"):
        repository.export("apple", tmp_path / "lora")
    repository.export("apple", tmp_path / "merged", "merged")


def test_a_lora_of_some_linears_is_exported_as_one_of_these_linears(
    on_falcon: Path, tmp_path: Path, data: Path
) -> None:
    repository, targets = Repository.open(on_falcon), ["q_proj", "v_proj"]
    backbone = repository.config.backbone.model
    shape = LoraConfig(r=4, target_modules=targets, layers_to_transform=ABOVE_TAP)
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(backbone), shape)
    torch.manual_seed(0)
    for name, weight in made.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    made.save_pretrained(tmp_path / "lora")
    repository.import_adapter(tmp_path / "lora", "some", [data], routing=MANUAL)
    repository.export("some", tmp_path / "again")
    keys = [load_file(tmp_path / one / WEIGHTS).keys() for one in ("lora", "again")]
    assert keys[0] == keys[1]
    base = AutoModelForCausalLM.from_pretrained(backbone).eval()
    with torch.no_grad():
        bare, expected = base(TOKENS).logits, made.eval()(TOKENS).logits
        again = PeftModel.from_pretrained(base, tmp_path / "again").eval()
        found = again(TOKENS).logits
    assert (found - expected).norm() <= 0.03 * (expected - bare).norm()  # its factors are in bf16
    wrapped = {name for name, one in again.named_modules() if hasattr(one, "lora_A")}
    assert len(wrapped) == len(targets) * len(ABOVE_TAP)


def test_a_gguf_lora_has_no_factors_of_zeros(
    fresh: Repository, lora: Path, tmp_path: Path, data: Path
) -> None:
    fresh.import_adapter(lora, "some", [data])
    fresh.export("some", tmp_path / "some.gguf", "gguf-lora")
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "some.gguf").tensors}
    assert {name.split(".")[2] for name in names} == {"attn_q", "attn_v", "ffn_down"}
    assert len(names) == len(load_file(lora / WEIGHTS))


def test_a_lora_names_the_backbone_in_use_where_the_pinned_one_is_not(
    committed: Repository,
    backbone: Path,
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, here = committed.path / "niwf.toml", tmp_path / "here"
    config.write_text(config.read_text().replace(str(backbone), "/nowhere/mistral"))
    committed.git.plain("commit", "--quiet", "--all", "-m", "As cloned from another machine")
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(shutil.copytree(backbone, here)))
    repository = Repository.open(committed.path)
    repository.export("apple", tmp_path / "lora")
    named = PeftConfig.from_pretrained(tmp_path / "lora").base_model_name_or_path
    assert named == str(here)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(named), tmp_path / "lora")
    done = repository.import_adapter(tmp_path / "lora", "back", [data], routing=MANUAL)
    assert not done.base_differs
