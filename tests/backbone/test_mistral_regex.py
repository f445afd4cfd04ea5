"""Tokenizers that Mistral published with a wrong pattern."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from tiny import save_tiny
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typer.testing import Result

from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions

WRONG = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
TEKKEN = 100_200  # tokens; smaller vocabularies are not Tekken's


@pytest.fixture(scope="module")
def nemo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone whose tokenizer joins the digits of 12, as the right pattern does not let it."""
    folder = save_tiny(tmp_path_factory.mktemp("backbone") / "nemo", vocab_size=TEKKEN + 1000)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    split = pre_tokenizers.Split(Regex(WRONG), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    plain = json.loads(tokenizer.to_str())
    vocabulary = plain["model"]["vocab"]
    vocabulary |= {"<s>": 256, "</s>": 257, "12": 258}
    vocabulary |= {f"filler{index}": index for index in range(1000, TEKKEN + 1000)}
    plain["model"]["merges"] = [["1", "2"]]
    path.write_text(json.dumps(plain))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "4.51.0"}))
    return folder


def joins(tokenizer: PreTrainedTokenizerBase) -> bool:
    return len(tokenizer("12", add_special_tokens=False)["input_ids"]) == 1


def test_a_new_repository_corrects_the_pattern_and_an_older_one_keeps_its_tokens(
    niwfctl: Callable[..., Result], nemo: Path, data: Path, tmp_path: Path
) -> None:
    assert joins(AutoTokenizer.from_pretrained(nemo))
    done = niwfctl("init", tmp_path / "new", "--model", nemo, "--dim", 8)
    assert done.exit_code == 0 and "fix_mistral_regex" in done.stdout
    repository = Repository.open(tmp_path / "new")
    assert not joins(repository.load().backbone.tokenizer)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples", RoutingOptions(manual=True))
    assert repository.verify(deep=True).ok
    repository.export("apple", tmp_path / "merged", "merged")
    assert not joins(AutoTokenizer.from_pretrained(tmp_path / "merged"))
    file = repository.path / "niwf.toml"
    text = file.read_text()
    assert text.startswith("format = 4\n")  # so that earlier versions say why they cannot read it
    older = text.replace("format = 4", "format = 3").replace("fix_mistral_regex = true\n", "")
    assert older.count("\n") == text.count("\n") - 1
    file.write_text(older)
    repository.git.plain("commit", "--quiet", "--all", "-m", "As earlier versions wrote it")
    assert joins(Repository.open(tmp_path / "new").load().backbone.tokenizer)


def test_where_no_pattern_is_wrong_earlier_versions_read_what_is_written(fresh: Repository) -> None:
    text = (fresh.path / "niwf.toml").read_text()
    assert text.startswith("format = 3\n") and "regex" not in text
