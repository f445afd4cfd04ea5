"""Makes instruction data from the source of Python's own standard library.

Every function with a docstring gives two pairs: `code` asks for its body given its signature and
docstring, `explain` asks for the first sentence of the docstring given the source without it. The
same functions are held out of both.

    python examples/stdlib_data.py OUT_DIR [--limit N] [--seed S]
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import sys
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SKIPPED = {"__pycache__", "dist-packages", "site-packages"}
SKIPPED |= {"idlelib", "lib2to3", "test", "tests", "turtledemo"}
HELD_OUT = 200
LONGEST_SOURCE = 900  # characters: with a question and a chat template about 256 tokens
SUMMARY = re.compile(r"[A-Z][^>]{14,159}")  # a sentence, not a signature with -> or a doctest
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s")
PARAGRAPH_END = re.compile(r"\n\s*\n")

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function of the library, moved to the left margin.

    Attributes:
        name: `module:Class.function`.
        head: its decorators and signature.
        docstring: as it stands in the source.
        body: what follows the docstring.
        logic: the body without comments and layout, to find equal ones.
        summary: first sentence of the docstring.
    """

    name: str
    head: str
    docstring: str
    body: str
    logic: str
    summary: str

    def code(self) -> dict[str, str]:
        """The pair that asks for the body."""
        return {
            "instruction": "Write the body of this Python function.",
            "input": f"{self.head}\n{self.docstring}",
            "output": textwrap.dedent(self.body).strip("\n"),
            "function": self.name,
        }

    def explain(self) -> dict[str, str]:
        """The pair that asks for the summary."""
        return {
            "instruction": "Say in one line what this Python function does.",
            "input": f"{self.head}\n{self.body}",
            "output": self.summary,
            "function": self.name,
        }


def library_functions(library: Path) -> list[Function]:
    """The usable functions of a library, without repeated bodies or summaries."""
    functions: list[Function] = []
    seen: set[str] = set()
    for function in filter(None, _candidates(library)):
        keys = {function.name, function.logic, function.summary}
        if seen.isdisjoint(keys):
            seen |= keys
            functions.append(function)
    return functions


def _candidates(library: Path) -> Iterator[Function | None]:
    for path in _sources(library):
        with tokenize.open(path) as file:
            source = file.read()
        module = ".".join(path.relative_to(library).with_suffix("").parts)
        for name, node in _definitions(ast.parse(source), module.removesuffix(".__init__") + ":"):
            yield _function(name, node, source.split("\n"))


def _sources(library: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(library):
        folders[:] = sorted(set(folders) - SKIPPED)
        yield from (Path(folder, file) for file in sorted(files) if file.endswith(".py"))


def _definitions(
    parent: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[tuple[str, Definition]]:
    # no nested functions: a held-out one would be seen inside the other
    for node in parent.body:
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node, f"{prefix}{node.name}.")
        elif isinstance(node, Definition):
            yield prefix + node.name, node


def _function(name: str, node: Definition, lines: list[str]) -> Function | None:
    summary = _summary(ast.get_docstring(node) or "")
    if not SUMMARY.fullmatch(summary) or len(node.body) < 2:
        return None
    start = min(part.lineno for part in (node, *node.decorator_list)) - 1
    lines = textwrap.dedent("\n".join(lines[start : node.end_lineno])).split("\n")
    first, last = node.body[0].lineno - 1 - start, node.body[0].end_lineno - start
    head, docstring = "\n".join(lines[:first]), "\n".join(lines[first:last])
    body = "\n".join(lines[last:]).strip("\n")
    function = Function(name, head, docstring, body, _logic(node.body[1:]), summary)
    fits = len("\n".join(lines)) <= LONGEST_SOURCE and "\n" in body
    return function if fits and _is_faithful(function) else None


def _summary(docstring: str) -> str:
    paragraph = PARAGRAPH_END.split(docstring.strip())[0]
    return SENTENCE_END.split(" ".join(paragraph.split()))[0]


def _is_faithful(function: Function) -> bool:
    # dedenting a multi-line string may change or break it
    try:
        whole = ast.parse(f"{function.head}\n{function.body}").body[0]
        alone = ast.parse(textwrap.dedent(function.body))
    except SyntaxError:
        return False
    return _logic(whole.body) == _logic(alone.body) == function.logic


def _logic(body: list[ast.stmt]) -> str:
    return ast.dump(ast.Module(body, []))


def _order(function: Function, seed: int) -> str:
    return hashlib.sha256(f"{seed} {function.name}".encode()).hexdigest()


def _write(path: Path, pairs: Iterable[dict[str, str]]) -> None:
    lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    print(f"{len(lines):6} {path}")


def functions_in_order(seed: int) -> list[Function]:
    """The functions of this Python's own library; the first HELD_OUT of them are held out."""
    functions = library_functions(Path(sysconfig.get_path("stdlib")))
    if len(functions) <= HELD_OUT:
        sys.exit(f"{sysconfig.get_path('stdlib')} holds too few sources: install Python's own")
    return sorted(functions, key=lambda function: _order(function, seed))


def main() -> None:
    """Writes code and explain, each with its held-out part, and prints the counts."""
    parser = argparse.ArgumentParser(description="Instruction data from Python's own library.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--limit", type=int, metavar="N", help="training pairs of each kind")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="chooses the held-out functions"
    )
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        parser.error("--limit must be 1 or more")
    functions = functions_in_order(options.seed)
    held_out, training = functions[:HELD_OUT], functions[HELD_OUT:][: options.limit]
    options.out.mkdir(parents=True, exist_ok=True)
    for kind, pair in (("code", Function.code), ("explain", Function.explain)):
        _write(options.out / f"{kind}.jsonl", map(pair, training))
        _write(options.out / f"{kind}.heldout.jsonl", map(pair, held_out))


if __name__ == "__main__":
    main()
