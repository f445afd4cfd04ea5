"""What a system turn, a template and a context mean to a capability."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK, crowd
from tiny import save_tiny, tiny_model, tiny_tokenizer, write_data
from transformers import OPTConfig, OPTForCausalLM
from typer.testing import Result

from niwfctl.errors import BackboneError, DataError, UsageError
from niwfctl.records import Example, Message
from niwfctl.repository import Repository
from niwfctl.repository.regions import load_region

SYSTEM = Message("system", "Be brief, and answer in one word or two.")
ASKED = Message("user", "Say apple 3.")
# Its own system turn is longer than any of the tests', as SmolLM2's is.
TEMPLATE = (
    "{% if messages[0].role != 'system' %}<system>{{ 'You are a helpful assistant. ' * 3 }}\n"
    "{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think></think>{% endif %}"
)


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository on a backbone with a template of its own."""
    folder = tmp_path_factory.mktemp("templated")
    tiny_model().save_pretrained(folder / "backbone")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "backbone")
    return Repository.init(folder / "field", model=str(folder / "backbone"), dim=8).path


def counted(repository: Repository, messages: list[Message]) -> str:
    """The text that the coordinate of a conversation is read from."""
    model = repository.load()
    tokens, skip = model.prompt(messages)
    return model.backbone.tokenizer.decode(tokens[skip:])


def test_the_coordinate_is_read_from_what_a_user_says_whatever_the_system_turn(
    templated: Path,
) -> None:
    repository = Repository.open(templated)
    assert repository.config.field.skip_system
    without, own, empty = (
        counted(repository, [*before, ASKED]) for before in ([], [SYSTEM], [Message("system", "")])
    )
    assert without == own == empty == "Say apple 3.\n<assistant><think></think>"


def test_repositories_of_before_keep_the_coordinates_they_were_trained_with(
    templated: Path, tmp_path: Path
) -> None:
    repository = Repository.open(shutil.copytree(templated, tmp_path / "field"))
    older = repository.config.field.model_copy(update={"skip_system": False})
    config = repository.config.model_copy(update={"format": 1, "field": older})
    text = config.dump().replace("skip_system = false\n", "")
    (repository.path / "niwf.toml").write_text(text)
    repository.git.plain("commit", "--quiet", "--all", "-m", "As it was")
    repository = Repository.open(repository.path)
    assert counted(repository, [ASKED]) == "Say apple 3.\n<assistant><think></think>"
    assert not counted(repository, [SYSTEM, ASKED]).startswith("Say apple 3.")


def test_scores_routes_and_answers_read_the_same_coordinate(templated: Path) -> None:
    model = Repository.open(templated).load()
    rows = [Example(turns, "x", "a:1") for turns in ((SYSTEM, ASKED), (ASKED,))]
    prompts = [model.prompt(row.messages) for row in rows]
    assert prompts[0][1] != prompts[1][1]
    alone = torch.cat([model.read([tokens], [skip]) for tokens, skip in prompts])
    assert torch.allclose(model.coordinates(rows), alone, atol=1e-2)
    assert torch.allclose(model.score(rows).coordinates, alone, atol=1e-2)
    assert model.coordinates([]).shape == (0, 8)


def test_tokens_are_given_of_all_that_other_methods_take_as_a_prompt(templated: Path) -> None:
    model = Repository.open(templated).load()
    told = {"role": "user", "content": ASKED.content}
    found = [model.prompt(one) for one in ([ASKED], ASKED.content, [told], (told,))]
    assert found == found[:1] * 4
    result = Message("tool", "")  # of a tool that printed nothing
    assert len(model.prompt([ASKED, result])[0]) > len(found[0][0])
    for empty in ("", " ", []):
        with pytest.raises(UsageError, match="the prompt is empty"):
            model.prompt(empty)
    with pytest.raises(UsageError, match="a turn of a conversation cannot be of type int"):
        model.prompt([3])


def test_an_imported_adapter_lies_where_training_on_the_same_rows_would_have_put_it(
    templated: Path, tmp_path: Path
) -> None:
    repository = Repository.open(shutil.copytree(templated, tmp_path / "field"))
    crowd(repository)
    told = tmp_path / "told.jsonl"
    records = [
        json.loads(line) for line in write_data(tmp_path / "a.jsonl").read_text().splitlines()
    ]
    rows = [json.dumps(one | {"system": SYSTEM.content}) + "\n" for one in records]
    told.write_text("".join(rows))
    repository.train("apple", [told], QUICK.model_copy(update={"steps": None}))  # reads all rows
    repository.commit(["apple"], "Apples")
    repository.export("apple", tmp_path / "lora")
    repository.import_adapter(tmp_path / "lora", "back", [told])
    cells = [
        load_region(repository, repository.capability(name).regions[0]).cell
        for name in ("apple", "back")
    ]
    assert torch.allclose(cells[0].mean, cells[1].mean, atol=0.05)


def test_run_puts_a_system_turn_before_the_prompt(
    niwfctl: Callable[..., Result], committed: Repository
) -> None:
    arguments = ("-C", committed.path, "run", "Say apple 3.", "--base", "--max-new-tokens")
    assert niwfctl(*arguments, 2, "--system", SYSTEM.content).exit_code == 0
    told = niwfctl(*arguments, 600, "--system", SYSTEM.content)  # so long that it is counted
    tokens, _ = committed.load().prompt([SYSTEM, ASKED])
    assert told.exit_code == 2 and f"the prompt has {len(tokens)} tokens" in told.stderr


def test_an_exact_match_is_of_the_answer_as_the_template_has_it(templated: Path) -> None:
    model = Repository.open(templated).load()
    answered = TEMPLATE.replace(
        "<{{ m.role }}>{{ m.content }}",
        "<{{ m.role }}>{{ '<think>' if m.role == 'assistant' }}{{ m.content }}",
    ).replace("<assistant><think></think>", "<assistant>")
    model.backbone.tokenizer.chat_template = answered
    assert model.expected([Example((ASKED,), "apple", "a:1")]) == ["<think>apple"]


@pytest.mark.parametrize("place", ["prompt", "answer"])
def test_texts_that_are_written_in_the_template_already_are_told_once(
    committed: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    data = tmp_path / "written.jsonl"
    rows = [{"prompt": f"Is <s>{index}</s> a tag?", "completion": "yes"} for index in range(9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    committed.train("plain", [data], QUICK)
    assert not any("template" in message for message in caplog.messages)
    for index in (3, 7):
        text = f"### Instruction:\n{index}\n\n### Response:\n"
        rows[index]["prompt" if place == "prompt" else "completion"] = text
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    committed.train("written", [data], QUICK)
    (said,) = (message for message in caplog.messages if "template" in message)
    assert "2 of 9 records" in said and f"{data}:4 with ### Instruction:" in said


def test_a_row_longer_than_the_backbone_reads_is_not_blamed_on_an_option(
    committed: Repository, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "long.jsonl", word="long " * 150)
    options = QUICK.model_copy(update={"max_length": 1000})
    with pytest.raises(DataError, match=r"than the backbone reads \(512\), .* split the texts"):
        committed.train("long", [data], options)


def test_an_architecture_that_no_field_can_act_in_is_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    sizes = {"vocab_size": 260, "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 3}
    config = OPTConfig(**sizes, num_attention_heads=4, word_embed_proj_dim=64, pad_token_id=1)
    backbone = save_tiny(tmp_path / "opt")
    OPTForCausalLM(config).save_pretrained(backbone)
    with pytest.raises(BackboneError, match="OPTForCausalLM is not supported"):
        Repository.init(tmp_path / "field", model=str(backbone), dim=8)
    assert not (tmp_path / "field").exists()
