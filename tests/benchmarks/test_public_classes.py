"""How public data become classification tasks; what npm fetches is made by the test."""

import json
from pathlib import Path

from public_classes import LONGEST_BODY, mail, mails, sentences

PLAIN = "Subject: {subject}\nContent-Type: text/plain\n\n{body}\n"


def put(folder: Path, name: str, subject: str, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = PLAIN.format(subject=subject, body=body)
    (folder / f"{name}.json").write_text(json.dumps({"text": text}))


def test_sentences_have_their_sentiment_and_come_once(tmp_path: Path) -> None:
    records = [
        {"text": "Good case.  ", "class": 1},
        {"text": "It broke.", "class": 0},
        {"text": "Good case.", "class": 1},
        {"text": "", "class": None},
    ]
    (tmp_path / "amazon.json").write_text(json.dumps(records))
    found = sentences(tmp_path / "amazon.json")
    assert found == [("Good case.", "positive"), ("It broke.", "negative")]


def test_a_mail_is_its_subject_and_the_begin_of_its_text_on_one_line() -> None:
    subject, body = mail(PLAIN.format(subject="Hello", body="one\n  two\n" + "long " * 200))
    assert (subject, body[:12], len(body)) == ("Hello", "one two long", LONGEST_BODY)


def test_a_mail_without_plain_text_or_of_an_unknown_charset_has_no_body() -> None:
    html = "Subject: a\nContent-Type: text/html\n\n<p>Buy</p>\n"
    unknown = "Subject: a\nContent-Type: text/plain; charset=no-such\n\nBuy\n"
    assert mail(html) == ("a", "")
    assert mail(unknown)[0] == "a"


def test_mails_that_differ_in_numbers_come_once_and_empty_ones_not_at_all(tmp_path: Path) -> None:
    put(tmp_path / "spam-1", "1", "Lose 10 lbs", "Lose 10 lbs in 30 days")
    put(tmp_path / "spam-1", "2", "Lose 12 lbs", "Lose 12 lbs in 10 days")
    put(tmp_path / "spam-2", "3", "Nothing", "12345")
    put(tmp_path / "easy-ham-1", "4", "Re: tests", "I would run them twice.")
    found = mails(tmp_path)
    assert [label for _, label in found] == ["spam", "ham"]
    assert found[1][0] == "Re: tests\nI would run them twice."
