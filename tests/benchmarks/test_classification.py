"""The reader of classification tasks, and the tasks made of Python's own library."""

import json
from pathlib import Path

import pytest
from rivals.classification import library_tasks, read_records, read_task, write_task

from niwfctl.errors import DataError


def write(folder: Path, **parts: object) -> Path:
    folder.mkdir()
    for name, content in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_prompt_holds_the_sentence_and_every_label_of_training(tmp_path: Path) -> None:
    records = [{"sentence": f"It is {label}.", "label": label} for label in ("good", "bad")]
    training, test = read_task(write(tmp_path / "task", train=records, test=records[:1]))
    assert [example.answer for example in training] == ["good", "bad"]
    (example,) = test
    assert example.messages[0].content == "It is good.\n\nAnswer with one of: bad, good."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"sentence": "a", "label": "b"}, "no list"),
        ([], "no list"),
        ([{"sentence": "a"}], r"\[0\] is no record"),
        ([{"sentence": "a", "label": "b"}, {"sentence": " ", "label": "b"}], r"\[1\] is no record"),
        ([{"sentence": "a", "label": 1}], r"\[0\] is no record"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, content: object, said: str) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=said):
        read_records(file)


def test_a_missing_file_and_broken_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path / "train.json")
    (tmp_path / "train.json").write_text("[{")
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path / "train.json")


def test_a_label_that_training_lacks_is_refused(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "task",
        train=[{"sentence": "a", "label": "x"}],
        test=[{"sentence": "a", "label": "y"}],
    )
    with pytest.raises(DataError, match="'y'"):
        read_task(folder)


class Function:
    """As examples/stdlib_data.py finds them."""

    def __init__(self, name: str, head: str, body: str, summary: str) -> None:
        self.name, self.head, self.body, self.summary = name, head, body, summary


def test_library_tasks_have_true_labels() -> None:
    functions = [
        Function("json.tool:a", "def a(x):", "    return x", "Give it back as it was."),
        Function("json:b", "def b(x):", "    raise ValueError(x)", "Refuse whatever it is."),
        Function("ast:c", "def c(x):", "    print(x)\n    return", "Print what was given."),
    ]
    tasks = library_tasks(functions)
    labels = {name: [label for _, label in pairs] for name, pairs in tasks.items()}
    assert labels == {
        "package": ["json", "json", "ast"],
        "returns": ["yes", "no", "no"],
        "raises": ["no", "yes", "no"],
    }


def test_a_task_is_written_as_it_is_read_and_its_first_records_are_held_out(tmp_path: Path) -> None:
    pairs = [("Schön.", "good"), ("Nicht.", "bad"), ("Doch.", "good"), ("Nie.", "bad")]
    write_task(tmp_path / "task", pairs, held_out=1)
    assert read_records(tmp_path / "task/test.json") == pairs[:1]
    assert read_records(tmp_path / "task/train.json") == pairs[1:]
