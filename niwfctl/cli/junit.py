"""Checks as JUnit XML, which pipelines show. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from niwfctl.repository.verify import Check

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A note does not fail; as skipped it is at least shown, which the output of a test that passed is
# not everywhere.
_ELEMENTS = {"failed": "failure", "not run": "error", "note": "skipped"}
_COUNTED = {"failures": "failed", "errors": "not run", "skipped": "note"}


def junit(checks: Sequence[Check]) -> bytes:
    """The checks as JUnit XML: a test case for each, with its state and words."""
    return _suite([(one.subject, one.check, one.state, one.detail) for one in checks])


def junit_error(words: str) -> bytes:
    """JUnit XML of a command that ended in an error, and so has no checks to show."""
    return _suite([("niwfctl", "check", "not run", words)])


def _suite(cases: Sequence[tuple[str, str, str, str]]) -> bytes:
    states = Counter(state for *_, state, _ in cases)
    counts = {attribute: str(states[state]) for attribute, state in _COUNTED.items()}
    suite = ElementTree.Element("testsuite", name="niwfctl check", tests=str(len(cases)), **counts)
    seen: Counter[tuple[str, str]] = Counter()
    for subject, check, state, words in cases:
        seen[subject, check] += 1
        count = seen[subject, check]  # some readers keep only the first of a name
        name = check if count == 1 else f"{check} {count}"
        subject, name, detail = (_NOT_XML.sub("�", text) for text in (subject, name, words))
        case = ElementTree.SubElement(suite, "testcase", classname=subject, name=name)
        if element := _ELEMENTS.get(state):
            ElementTree.SubElement(case, element, message=detail)
        else:
            ElementTree.SubElement(case, "system-out").text = detail
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
