"""Backbones that are built otherwise than most, from init to a deep verification."""

from pathlib import Path

import pytest
import tiny
import torch
from conftest import QUICK
from transformers import AutoTokenizer, DogeConfig

from niwfctl.backbone.generation import AnswerOptions
from niwfctl.backbone.scoring import Scorer
from niwfctl.errors import BackboneError
from niwfctl.records import Example, Message
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions


@pytest.mark.parametrize("kind", ["gemma3_text", "gemma3"])
def test_a_model_with_or_without_eyes_learns_and_is_verified(
    tmp_path: Path, data: Path, kind: str
) -> None:
    backbone = tiny.save_tiny(tmp_path / "backbone", kind)
    repository = Repository.init(tmp_path / "new", model=str(backbone), dim=8)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples")
    model = repository.load("apple")
    assert model.longest == tiny.SIZES["max_position_embeddings"]
    assert model.generate("Say apple 3.", max_new_tokens=3) is not None
    assert repository.verify(deep=True).ok


@pytest.mark.parametrize("kind", ["granite", "cohere", "falcon_h1"])
def test_a_model_that_scales_its_logits_learns_and_is_scored_by_what_it_computes(
    tmp_path: Path, data: Path, kind: str
) -> None:
    backbone = tmp_path / "backbone"
    model = tiny.tiny_model(kind)
    model.get_output_embeddings().weight.data *= 20  # random models hardly prefer any token
    model.save_pretrained(backbone)
    tiny.tiny_tokenizer().save_pretrained(backbone)
    repository = Repository.init(tmp_path / "new", model=str(backbone), dim=8)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples", RoutingOptions(manual=True))
    assert repository.verify(deep=True).ok
    loaded = repository.load(None)
    (row,) = loaded.encode([Example((Message("user", "Say apple 3."),), "apple is 21")])
    with torch.no_grad():
        logits = loaded.backbone.model(torch.tensor([row.prompt + row.answer])).logits[0].float()
    predicting, answer = logits[len(row.prompt) - 1 : -1], torch.tensor(row.answer)
    loss, tokens = Scorer(loaded.adapter, loaded.skip).loss([row])
    expected = torch.nn.functional.cross_entropy(predicting, answer)
    assert float(loss) / tokens == pytest.approx(float(expected), rel=0.01)


def test_a_model_whose_layers_read_several_states_a_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny.CONFIGS, "gemma3n", tiny.several_streams)
    backbone = tiny.save_tiny(tmp_path / "backbone", "gemma3n")
    with pytest.raises(BackboneError, match="is not supported: its layers do not read one state"):
        Repository.init(tmp_path / "new", model=str(backbone), dim=8)
    assert not (tmp_path / "new").exists()


def test_a_model_that_cannot_go_on_token_by_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny.CONFIGS, "doge", DogeConfig)
    backbone = tiny.save_tiny(tmp_path / "backbone", "doge")
    with pytest.raises(BackboneError, match="DogeForCausalLM is not supported: it cannot answer"):
        Repository.init(tmp_path / "new", model=str(backbone), dim=8)
    assert not (tmp_path / "new").exists()


def test_a_model_without_an_end_of_text_answers_to_the_longest_length(
    tmp_path: Path,
) -> None:
    backbone = tiny.save_tiny(tmp_path / "backbone", eos_token_id=None, bos_token_id=None)
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.eos_token = tokenizer.bos_token = None
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    tokenizer.save_pretrained(backbone)
    repository = Repository.init(tmp_path / "new", model=str(backbone), dim=8)
    model = repository.load(None)
    requests = [
        model.request([Message("user", text)], AnswerOptions(3 + len(text))) for text in ("a", "bc")
    ]
    model.answer(requests)
    assert [(one.count, one.ended) for one in requests] == [(4, "length"), (5, "length")]


def test_a_model_that_does_not_know_all_tokens_of_its_tokenizer_is_refused(tmp_path: Path) -> None:
    backbone = tiny.save_tiny(tmp_path / "backbone", vocab_size=200)
    with pytest.raises(BackboneError, match=r"token 25\d \('.+'\), but the model knows only 200"):
        Repository.init(tmp_path / "new", model=str(backbone), dim=8)
    assert not (tmp_path / "new").exists()


def test_a_token_that_was_added_and_is_never_used_does_no_harm(tmp_path: Path) -> None:
    backbone = tiny.save_tiny(tmp_path / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    size = tiny.SIZES["vocab_size"]
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<{n}>" for n in range(size)]})
    tokenizer.save_pretrained(backbone)
    assert len(tokenizer) > size
    assert Repository.init(tmp_path / "new", model=str(backbone), dim=8).verify(deep=True).ok
