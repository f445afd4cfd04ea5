"""Text files of prompts."""

from pathlib import Path

import pytest

from niwfctl.errors import DataError
from niwfctl.records import Example, Message
from niwfctl.training.data import data_hash, read_prompts


def test_each_line_with_words_is_a_prompt_without_an_answer(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffWhy?\r\n\n  Où est Ada?  \n".encode())
    assert read_prompts([str(file)]) == [
        Example((Message("user", "Why?"),), "", f"{file}:1"),
        Example((Message("user", "Où est Ada?"),), "", f"{file}:3"),
    ]


def test_other_prompts_hash_otherwise(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("Why?\nWho?\n")
    other.write_text("Why?\nHow?\n")
    assert data_hash(read_prompts([str(one)])) != data_hash(read_prompts([str(other)]))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b" \n\n", "no prompts"), (b"a\ncaf\xe9\n", ":2 is not UTF-8")],
)
def test_a_file_without_readable_prompts_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_prompts([str(file)])
