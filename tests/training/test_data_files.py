"""Behaviour of reading files of data: JSON, CSV, Parquet, text encodings, the hub."""

import gzip
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from records import ALPACA, CHAT, PAIR, refusal, user

from niwfctl.records import Example
from niwfctl.training.data import data_hash, read_examples

Write = Callable[..., str]


# ------------------------------------------------------------------------------------- JSON


def test_blank_lines_are_skipped_and_still_counted(write: Write) -> None:
    path = write("a.ndjson", b"\n  \r\n", PAIR, b"\n", PAIR, b"\n\n")
    assert [example.origin for example in read_examples([path])] == [f"{path}:3", f"{path}:5"]


def test_the_last_line_needs_no_line_break(write: Write) -> None:
    assert len(read_examples([write("a.jsonl", PAIR, json.dumps(PAIR).encode())])) == 2


def test_a_suffix_may_be_in_capitals(write: Write) -> None:
    assert len(read_examples([write("A.JSONL", PAIR)])) == 1


@pytest.mark.parametrize("content", [[PAIR, ALPACA], {"version": 1, "data": [PAIR, ALPACA]}])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_file_holds_an_array_alone_or_as_data(
    write: Write, content: object, indent: int | None
) -> None:
    path = write("a.json", json.dumps(content, indent=indent).encode())
    assert [(e.answer, e.origin) for e in read_examples([path])] == [
        ("Because.", f"{path}[0]"),
        ("3", f"{path}[1]"),
    ]


def test_a_json_file_that_is_really_jsonl_is_read_by_lines(write: Write) -> None:
    path = write("a.json", b"\r\n", PAIR, b"\r\n", ALPACA)
    assert [example.origin for example in read_examples([path])] == [f"{path}:2", f"{path}:4"]
    path = write("b.json", PAIR)
    assert len(read_examples([path])) == 1
    path = write("c.json", PAIR, b'{"prompt": }')
    assert refusal(path).startswith(f"{path}:2 is not JSON at column 12")


def test_a_wrong_element_of_an_array_is_named_by_its_index(write: Write) -> None:
    path = write("a.json", [PAIR, {"prompt": "a"}])
    assert refusal(path).startswith(f"{path}[1] has the wrong columns (`prompt`)")
    path = write("b.json", 7)
    assert refusal(path).startswith(f"{path}[0] is the value 7")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", b'\n{"prompt" "b"}\n', ":2 is not JSON at column 11 (Expecting"),
        ("a.jsonl", b"\n" + b'{"prompt": "a"' + b"\n", ":2 is not JSON at column 15"),
        ("a.jsonl", b'{"a": 1} {"b": 2}\n', ":1 is not JSON at column 10 (Extra data)"),
        ("a.jsonl", b"instruction,output\n", ":1 is not JSON at column 1"),
        ("a.json", b'[\n  {"prompt": "a"},\n  oops\n]\n', ":3 is not JSON at column 3"),
        ("a.json", b'[\n  {"prompt": "a"}\n\n\n', ":2 is not JSON at column 18"),
        ("a.json", b'{"data": [\n{"prompt": }\n', ":2 is not JSON at column 12"),
        ("a.jsonl", b"[" * 200_000, ":1 is not JSON that can be read"),
        ("a.jsonl", b"9" * 5_000, ":1 is not JSON that can be read"),
    ],
)
def test_what_is_not_json_is_named_by_line_and_column(
    write: Write, name: str, content: bytes, place: str
) -> None:
    path = write(name, content)
    assert refusal(path).startswith(path + place)


# -------------------------------------------------------------------------------------- CSV


def test_a_csv_record_is_named_by_the_line_on_which_it_begins(write: Write) -> None:
    content = b'id,prompt,completion\r\n1,"one\r\ntwo, ""three""",a\r\n\r\n2,four,b\r\n'
    path = write("a.csv", content)
    assert read_examples([path]) == [
        Example(user('one\r\ntwo, "three"'), "a", f"{path}:2"),
        Example(user("four"), "b", f"{path}:5"),
    ]


def test_a_tsv_file_is_delimited_by_tabs(write: Write) -> None:
    path = write("a.tsv", b"instruction\tinput\toutput\nAdd.\t1, 2\t3\nSay.\t\tHi\n")
    assert [example.messages for example in read_examples([path])] == [
        user("Add.\n\n1, 2"),
        user("Say."),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"Prompt,COMPLETION\nOne; two,a b\n",
        b" prompt ,completion\nOne; two,a b\n",
        b"prompt, completion\nOne; two, a b\n",
        b'prompt, completion\n"One; two", "a b"\n',
        b'\n"Prompt";"Completion"\n"One; two";a b\n',
        b"\xef\xbb\xbfprompt\tcompletion\r\nOne; two\ta b\r\n",
    ],
)
def test_a_csv_header_may_have_capitals_spaces_and_other_delimiters(
    write: Write, content: bytes
) -> None:
    for name in ("a.csv", "a.tsv"):
        (example,) = read_examples([write(name, content)])
        assert (example.messages, example.answer) == (user("One; two"), "a b")


def test_a_csv_header_that_has_a_layout_is_taken_as_it_is_written(write: Write) -> None:
    content = b"prompt,completion,System,Prompt\n one, a ,Never.,two\n"
    (example,) = read_examples([write("a.csv", content)])
    assert (example.messages, example.answer) == (user(" one"), " a ")


@pytest.mark.parametrize(
    "content",
    [
        b"prompt;completion;notes, if any\nWhy, now?;So.;\n",
        b'id;prompt;completion;"tags, free"\n1;Why, now?;So.;"a, b"\n',
        b'prompt\tcompletion\t"a, b; c"\nWhy, now?\tSo.\tc; d\n',
        b'prompt,completion,"a; b; c; d"\n"Why, now?",So.,e; f\n',
        b'prompt;completion;"notes,\nif any"\nWhy, now?;So.;\n',
    ],
)
def test_a_csv_file_is_delimited_by_what_finds_its_columns(write: Write, content: bytes) -> None:
    for name in ("a.csv", "a.tsv"):
        (example,) = read_examples([write(name, content)])
        assert (example.messages, example.answer) == (user("Why, now?"), "So.")


def test_wrong_columns_are_told_one_by_one_whatever_delimits_them(write: Write) -> None:
    path = write("a.csv", b"Frage;Antwort;Notiz, falls frei\nWarum, bitte?;So.;\n")
    columns = "(`Frage`, `Antwort`, `Notiz, falls frei`)"
    assert refusal(path).startswith(f"{path}:2 has the wrong columns {columns}")


@pytest.mark.parametrize(
    "header",
    [
        b"prompt, completion, system",
        b"prompt,   completion,   system",
        b'prompt, completion, "a,b"',
    ],
)
def test_where_blanks_follow_the_delimiters_of_a_header_one_goes_and_indentation_stays(
    write: Write, header: bytes
) -> None:
    rows = {
        b"Why?, So., It": ("Why?", "So."),
        b'"Why?", "So.", "It"': ("Why?", "So."),
        b'"Why, so?",   "So, so,   x.",   It': ("Why, so?", "So, so,   x."),
        b"    if a:,     return b, It": ("    if a:", "    return b"),
        b"\tif a:, \treturn b, It": ("\tif a:", "\treturn b"),
        b'"def f(a,   b):\n    return a,   b", "   f(a)", It': (
            "def f(a,   b):\n    return a,   b",
            "   f(a)",
        ),
    }
    found = read_examples([write("a.csv", b"\n".join([header, *rows]))])
    assert [(one.messages[-1].content, one.answer) for one in found] == list(rows.values())
    assert {len(one.messages) for one in found} == {2 if header.endswith(b"system") else 1}


def test_blanks_stay_where_the_header_has_none_after_a_delimiter(write: Write) -> None:
    path = write("a.csv", b'prompt,completion,"a, b, c"\nWhy?,  So.,It\n')
    assert read_examples([path])[0].answer == "  So."


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        (b"a,b\nc\n", ":3 is not CSV (1 fields where the header has 2)"),
        (b"a,b\nc,d,e\n", ":3 is not CSV (3 fields where the header has 2)"),
        (b'"a\nb",c\n"d,e\nf\n', ":4 is not CSV (unexpected end of data)"),
        (b'"a"b,c\n', ":2 is not CSV"),
        (b"a,\n", ":2 has an empty `completion`"),
    ],
)
def test_a_wrong_csv_row_is_named_by_its_line(write: Write, rows: bytes, place: str) -> None:
    path = write("a.csv", b"prompt,completion\n" + rows)
    assert refusal(path).startswith(path + place)


def test_a_csv_field_may_be_of_any_length(write: Write) -> None:
    path = write("a.csv", b"prompt,completion\n" + b"x" * 200_000 + b",yes\n")
    assert len(read_examples([path])[0].messages[0].content) == 200_000


def test_a_csv_file_without_a_header_has_wrong_columns(write: Write) -> None:
    path = write("a.csv", b"Why?,Because.\nHow?,So.\n")
    assert refusal(path).startswith(f"{path}:2 has the wrong columns (`Why?`, `Because.`)")


# ---------------------------------------------------------------------------------- Parquet


def test_parquet_rows_are_named_by_their_index(write_parquet: Write) -> None:
    path = write_parquet("a.parquet", ALPACA, ALPACA | {"input": None, "output": "4"})
    assert read_examples([path]) == [
        Example(user("Add.\n\n1 and 2"), "3", f"{path} row 0"),
        Example(user("Add."), "4", f"{path} row 1"),
    ]


def test_parquet_gives_the_same_examples_as_jsonl(write: Write, write_parquet: Write) -> None:
    parquet = read_examples([write_parquet("a.parquet", CHAT, PAIR | CHAT)])
    jsonl = read_examples([write("a.jsonl", CHAT, PAIR | CHAT)])
    assert data_hash(parquet) == data_hash(jsonl)


def test_a_table_of_several_formats_is_read_by_the_filled_columns(write_parquet: Write) -> None:
    path = write_parquet("a.parquet", ALPACA | {"messages": None}, dict.fromkeys(ALPACA) | CHAT)
    answers = [example.answer for example in read_examples([path])]
    assert answers == ["3", "Hello", "Farewell"]


def test_a_wrong_parquet_row_is_named(write_parquet: Write) -> None:
    path = write_parquet("a.parquet", PAIR, PAIR | {"completion": None})
    assert refusal(path).startswith(f"{path} row 1 has an empty `completion`: write one")


def test_a_long_wrong_value_is_told_in_short(write_parquet: Write) -> None:
    path = write_parquet("a.parquet", PAIR | {"completion": b"\xff" * 10_000})
    message = refusal(path)
    assert message.startswith(f"{path} row 0 has the value b'") and len(message) < 400


def test_unreadable_parquet_is_refused(write: Write, write_parquet: Write) -> None:
    good = Path(write_parquet("good.parquet", PAIR)).read_bytes()
    for content in (b"", b"not parquet at all", good[:-20], good[: len(good) // 2]):
        path = write("a.parquet", content)
        assert refusal(path).startswith(f"{path} is not readable Parquet")


# ------------------------------------------------------------------------------ all sources


def test_sources_are_read_in_their_order(write: Write, write_parquet: Write) -> None:
    paths = [write("b.jsonl", PAIR), write_parquet("c.parquet", ALPACA), write("a.json", [PAIR])]
    assert [e.origin for e in read_examples(paths)] == [
        f"{paths[0]}:1",
        f"{paths[1]} row 0",
        f"{paths[2]}[0]",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json.dumps(PAIR)),
        ("a.json", json.dumps([PAIR])),
        ("a.csv", "prompt,completion\nWhy?,Because.\n"),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_text(write: Write, name: str, content: str) -> None:
    (example,) = read_examples([write(name, content.encode("utf-8-sig"))])
    assert (example.messages, example.answer) == (user("Why?"), "Because.")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_what_is_not_utf8_is_named_by_its_line(write: Write, name: str) -> None:
    first = b"prompt,completion\n" if name == "a.csv" else PAIR
    path = write(name, first, "{'naïve'}\n".encode("latin-1"))
    assert refusal(path).startswith(f"{path}:2 is not UTF-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n \n"),
        ("a.json", b""),
        ("a.json", b" \n"),
        ("a.json", b"[]"),
        ("a.json", b'{"data": []}'),
        ("a.csv", b""),
        ("a.csv", b"prompt,completion\n"),
    ],
)
def test_a_file_without_records_is_refused(write: Write, name: str, content: bytes) -> None:
    path = write(name, content)
    assert refusal(write("good.jsonl", PAIR), path).startswith(f"{path} holds no records")


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": [], "completion": []}), path)
    assert refusal(str(path)).startswith(f"{path} holds no records")


def test_a_missing_file_a_folder_and_an_unknown_suffix_are_refused(write: Write, tmp_path) -> None:
    path = str(tmp_path / "none.jsonl")
    assert refusal(path) == f"data file {path} does not exist: check its path"
    assert refusal("data/none.jsonl").startswith("data file data/none.jsonl does not exist")
    assert refusal("../none").startswith("data file ../none does not exist")
    assert refusal("").startswith("data file ")
    (tmp_path / "empty").mkdir()
    empty = refusal(str(tmp_path / "empty"))
    assert empty.startswith(f"the folder {tmp_path / 'empty'} holds no data file: expected some of")
    assert ".jsonl" in refusal(write("a.txt", PAIR))


def test_a_folder_or_a_pattern_is_its_data_files_by_name(write: Write, tmp_path: Path) -> None:
    names = ["b.jsonl", "a[1].jsonl", "c.csv.gz", ".hidden.jsonl", "README.md", "sub.jsonl"]
    for name in names[:-1]:
        content = b"prompt,completion\nWhy?,So.\n"
        write(name, gzip.compress(content) if name.endswith("gz") else PAIR)
    (tmp_path / "sub.jsonl").mkdir()
    paths = [str(tmp_path / name) for name in sorted(names[:3])]
    assert [one.origin.rpartition(":")[0] for one in read_examples([str(tmp_path)])] == paths
    pattern = str(tmp_path / "?[.[]*jsonl")
    assert [one.origin for one in read_examples([pattern])] == [f"{one}:1" for one in paths[:2]]
    assert len(read_examples([paths[0]])) == 1
    assert "does not exist" in refusal(str(tmp_path / "*.parquet"))


def test_a_pattern_is_the_data_files_among_what_it_matches(write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    names = ["a.jsonl", "sub/b.jsonl", "sub/deep/c.jsonl"]
    for name in (*names, "README.md", "sub/LICENSE"):
        write(name, PAIR)
    for pattern, wanted in (
        ("*", names[:1]),
        ("**", names),
        ("**/**", names),
        ("sub/*", names[1:2]),
    ):
        found = read_examples([str(tmp_path / pattern)])
        assert [one.origin for one in found] == [f"{tmp_path / name}:1" for name in wanted]
    for pattern in ("*.md", "s*"):
        said = refusal(str(tmp_path / pattern))
        assert said.startswith(f"the pattern {tmp_path / pattern} matches no data file: expected")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson"])
def test_a_packed_file_is_read_as_what_it_holds(write: Write, name: str) -> None:
    content = json.dumps(PAIR).encode()
    packed = gzip.compress(content)
    (example,) = read_examples([write(f"{name}.gz", packed)])
    assert example == replace(read_examples([write(name, content)])[0], origin=example.origin)
    for damaged in (content, packed[:-9], packed[:12] + b"\xff" * 20, packed[:-8] + b"\0" * 8):
        path = write(f"{name}.GZ", damaged)
        assert refusal(path).startswith(f"{path} is no whole gzip file (")


def test_no_sources_are_refused() -> None:
    assert refusal().startswith("no data is given")


# -------------------------------------------------------------------------------------- hub


def test_a_hub_dataset_without_the_library_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("owner/name", "owner/name:test", "owner/name:train[:10]"):
        message = refusal(name)
        assert message.startswith(f"{name} is not a file")
        assert "`pip install 'niwfctl[hub]'`" in message


@pytest.mark.skipif(not importlib.util.find_spec("datasets"), reason="needs niwfctl[hub]")
def test_a_hub_dataset_that_does_not_load_is_refused(monkeypatch) -> None:
    script = "from niwfctl.training.data import read_examples; read_examples(['owner/name:test'])"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "DataError: owner/name:test is not a file, and cannot be loaded" in result.stderr


def test_reading_files_imports_no_heavy_library(write: Write) -> None:
    path = write("a.jsonl", PAIR)
    script = (
        "import sys; from niwfctl.training.data import read_examples;"
        f"read_examples([{path!r}]);"
        "print(sys.modules.keys() & {'torch', 'transformers', 'pandas', 'pyarrow', 'datasets'})"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "set()\n"


# ------------------------------------------------------------------------------------ hashing


def test_equal_examples_hash_equally_wherever_they_were_read(write: Write) -> None:
    lines = read_examples([write("a.jsonl", PAIR, ALPACA, CHAT)])
    array = read_examples([write("b.json", [ALPACA | PAIR | {"input": None}, ALPACA, CHAT])])
    assert data_hash(lines) != data_hash(array)
    array = read_examples([write("b.json", [PAIR | {"id": 1}, ALPACA, CHAT])])
    assert data_hash(lines) == data_hash(iter(array))
