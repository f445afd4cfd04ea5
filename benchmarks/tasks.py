"""Tasks made from files on the machine, for benchmarks: records of `instruction` and `output`.

Each maker gives at most `count` records in an order fixed by its seed. Its sources (message
catalogues, manual pages, the package index of Debian) depend on the machine.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

Record = dict[str, str]

LOCALES = Path("/usr/share/locale")


def german(count: int, seed: int = 0) -> list[Record]:
    """Messages of programs, to be translated into German."""
    return _translations("de", "German", count, seed)


def french(count: int, seed: int = 0) -> list[Record]:
    """Messages of programs, to be translated into French."""
    return _translations("fr", "French", count, seed)


def _translations(code: str, language: str, count: int, seed: int) -> list[Record]:
    asks = (
        f"Translate this message into {language}:",
        f"How does a program say this in {language}?",
        f"Give the {language} translation of the following text of a user interface.",
        f"{language}, please:",
    )
    pairs: dict[str, str] = {}
    for catalogue in sorted((LOCALES / code / "LC_MESSAGES").glob("*.mo")):
        if not catalogue.name.startswith("iso_"):  # these are names of countries and languages
            pairs |= dict(_messages(catalogue.read_bytes()))
    good = [(a, b) for a, b in sorted(pairs.items()) if 25 <= len(a) <= 300 and a != b]
    return _drawn(good, count, seed, lambda pick, pair: (f"{pick(asks)}\n\n{pair[0]}", pair[1]))


def _messages(catalogue: bytes) -> Iterator[tuple[str, str]]:
    """(English, translated) of a GNU message catalogue, without plurals."""
    order = "<" if catalogue[:4] == b"\xde\x12\x04\x95" else ">"
    number, *tables = struct.unpack(f"{order}3I", catalogue[8:20])
    for index in range(number):
        texts = []
        for table in tables:
            size, at = struct.unpack_from(f"{order}2I", catalogue, table + 8 * index)
            texts.append(catalogue[at : at + size].decode("utf-8", "replace"))
        if "\0" not in texts[0]:
            yield texts[0].rpartition("\4")[2], texts[1]


def packages(count: int, seed: int = 0) -> list[Record]:
    """Debian packages by description, to be assigned to their section."""
    asks = (
        "Which section of Debian does this package belong to?",
        "Put this Debian package into its section.",
        "Name the archive section of the package below.",
    )
    found = {}
    for text in _output("apt-cache", "dumpavail").split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in text.split("\n")
            if ": " in line and not line.startswith(" ")
        )
        source = fields.get("Source", fields.get("Package", "")).split(" ")[0]
        if {"Description", "Section", "Package"} <= fields.keys():
            found.setdefault(
                source, fields
            )  # one per source package: the others say nearly the same

    def ask(pick: Callable, fields: Record) -> tuple[str, str]:
        shown = ("Package", "Description", "Homepage", "Tag")
        lines = [f"{name}: {fields[name]}" for name in shown if name in fields]
        return "\n".join([pick(asks), "", *lines]), fields["Section"]

    return _drawn([found[source] for source in sorted(found)], count, seed, ask)


def manual(count: int, seed: int = 0) -> list[Record]:
    """One-line descriptions of manual pages, to be answered by the command's name."""
    asks = (
        "Which command does this: {}?",
        "I need a command-line tool: {}. What is it called?",
        "Name the Unix program described as “{}”.",
        "{} - which program is that?",
    )
    pairs: dict[str, str] = {}
    for line in _output("apropos", "--sections=1,8", ".").splitlines():
        name, _, text = line.partition(" - ")
        if 20 <= len(text) <= 150 and text.isascii() and "(" in name:
            pairs[text.strip()] = name.split(" ")[0]
    return _drawn(
        sorted(pairs.items()), count, seed, lambda pick, p: (pick(asks).format(p[0]), p[1])
    )


def changes(count: int, seed: int = 0) -> list[Record]:
    """Entries of Debian's changelogs, to be put into plain words."""
    asks = (
        "Explain this change to someone who only uses the program.",
        "What was changed, in plain words?",
        "Say in one sentence what this release note means.",
    )
    found = set()
    for file in sorted(Path("/usr/share/doc").glob("*/changelog.Debian.gz")):
        text = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
        entries = re.findall(r"^  \* (.+(?:\n    \S.*)*)", text, re.MULTILINE)
        found.update(" ".join(entry.split()) for entry in entries)
    good = [entry for entry in sorted(found) if 40 <= len(entry) <= 300]
    return _drawn(good, count, seed, lambda pick, entry: (f"{pick(asks)}\n\n{entry}", "?"))


NAMES = (
    "Ana",
    "Ben",
    "Chloe",
    "David",
    "Elif",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Liam",
    "Mona",
    "Noor",
    "Omar",
    "Pia",
)
THINGS = (
    "apples",
    "pencils",
    "tickets",
    "stamps",
    "marbles",
    "cookies",
    "stickers",
    "books",
    "shells",
    "coins",
    "cards",
)
PLACES = (
    "market",
    "school",
    "library",
    "farm",
    "bakery",
    "station",
    "museum",
    "harbour",
    "workshop",
    "cinema",
)
SUMS = (
    "{n} has {a} {t}. At the {p} {n} gets {b} more and gives {c} to {m}. How many are left?",
    "A box holds {a} {t}. How many {t} do {b} boxes hold, if {c} of them fall out?",
    "{n} and {m} share {a} {t} equally. Then {n} buys {b} more. How many does {n} have?",
    "At the {p}, {t} cost {c} euros each. {n} pays with {a} euros for {d} of them. Change?",
    "{n} reads {b} pages a day. How many pages has {n} read after {d} days, if {a} came before?",
    "A train leaves the {p} at {d} o'clock and drives {c} hours at {a} km/h. How far does it get?",
    "There are {a} {t} at the {p}. {d} percent are broken. How many are whole?",
    "{n} is {d} years old, {m} is {c} years older. What is the sum of their ages in {b} years?",
    "{n} saves {b} euros every week. After how many weeks does {n} have {a} euros?",
    "The {p} sold {a} {t} on Monday and {b} fewer on Tuesday. How many on both days?",
    "{m} walks {d} km to the {p} and back, {c} times a week. How many km is that?",
    "If {d} workers need {c} hours to pack {a} {t}, how many hours do {b} workers need?",
)


def arithmetic(count: int, seed: int = 0) -> list[Record]:
    """Word problems; their answers do not matter to routing and are left empty."""

    def ask(pick: Callable, _: int) -> tuple[str, str]:
        fields = {"a": pick(range(40, 400)), "b": pick(range(5, 40)), "c": pick(range(2, 12))}
        names = {"n": pick(NAMES[:8]), "m": pick(NAMES[8:]), "t": pick(THINGS), "p": pick(PLACES)}
        return pick(SUMS).format(**fields, **names, d=pick(range(2, 20))), "?"

    return _drawn(range(count), count, seed, ask)


TABLES = {
    "orders": ("id", "customer", "total", "placed_at", "status"),
    "employees": ("id", "name", "department", "salary", "hired"),
    "flights": ("number", "origin", "destination", "departure", "seats"),
    "books": ("isbn", "title", "author", "year", "price"),
    "sensors": ("id", "place", "reading", "unit", "read_at"),
    "students": ("id", "name", "course", "grade", "enrolled"),
    "invoices": ("number", "client", "amount", "due", "paid"),
}
QUERIES = (
    "all rows of {t} where {a} is not null, ordered by {b}",
    "the number of {t} for each {a}",
    "the {n} largest values of {b} in {t} with their {a}",
    "the average {b} of {t} grouped by {a}, only groups of more than {n}",
    "every {a} of {t} that occurs more than once",
    "{t} whose {b} is above the mean of their {a}",
    "the share of {t} in which {a} equals '{n}'",
    "the latest of the {t} by {b} for every {a}, with a window function",
)


def sql(count: int, seed: int = 0) -> list[Record]:
    """Questions to a database, to be answered by a query."""
    asks = (
        "Write an SQL query for {}.\n\nTable: {}",
        "Given the table {1}, select {0}.",
        "SQL: {}. Schema: {}",
        "I have a Postgres table {1}. How do I get {0}?",
    )

    def ask(pick: Callable, _: int) -> tuple[str, str]:
        table = pick(sorted(TABLES))
        fields = {"a": pick(TABLES[table]), "b": pick(TABLES[table]), "n": pick(range(2, 50))}
        schema = f"{table}({', '.join(TABLES[table])})"
        return pick(asks).format(pick(QUERIES).format(t=table, **fields), schema), "?"

    return _drawn(range(count), count, seed, ask)


NOTES = (
    "{n} from the {p} called on {d}/{m}: they want {c} {t} by Friday and pay {a} euros.",
    "Meeting with {n} at the {p}, day {d}, room {c}. Bring the {t}. Budget {a}.",
    "Invoice {a} to {n}, {c} {t}, shipped from the {p} on {d}/{m}.",
    "Lost near the {p}: a bag with {c} {t}. If found call {n}, reward {a} euros.",
    "{n} (age {d}) won {c} {t} in the draw at the {p}; prize number {a}.",
)


def extraction(count: int, seed: int = 0) -> list[Record]:
    """Short notes, from which fields are to be extracted as JSON."""
    asks = (
        "Extract {} as JSON.\n\n{}",
        "Return a JSON object with the keys {} from this text: {}",
        "{1}\n\nFill in: {0}. Answer with JSON only.",
    )
    keys = ("name", "place", "date", "quantity", "item", "amount")

    def ask(pick: Callable, _: int) -> tuple[str, str]:
        numbers = {"a": pick(range(50, 900)), "c": pick(range(2, 30)), "d": pick(range(1, 29))}
        words = {"n": pick(NAMES), "p": pick(PLACES), "t": pick(THINGS), "m": pick(range(1, 13))}
        wanted = sorted({pick(keys) for _ in range(4)})
        return pick(asks).format(", ".join(wanted), pick(NOTES).format(**numbers, **words)), "?"

    return _drawn(range(count), count, seed, ask)


def _drawn(
    items: list | range, count: int, seed: int, ask: Callable[[Callable, object], tuple[str, str]]
) -> list[Record]:
    source = random.Random(seed)
    chosen = source.sample(list(items), min(count, len(items)))
    pairs = dict(ask(source.choice, item) for item in chosen)  # each question once
    return [{"instruction": question, "output": answer} for question, answer in pairs.items()]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write(maker: Callable[[int], list[Record]], folder: Path, count: int) -> Path:
    """The records of a task as a file `{maker}.jsonl`."""
    file = folder / f"{maker.__name__}.jsonl"
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in maker(count)]
    file.write_text("".join(lines), encoding="utf-8")
    return file
