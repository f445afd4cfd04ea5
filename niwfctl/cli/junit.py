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
    states = Counter(one.state for one in checks)
    counts = {attribute: str(states[state]) for attribute, state in _COUNTED.items()}
    suite = ElementTree.Element("testsuite", name="niwfctl check", tests=str(len(checks)), **counts)
    seen: Counter[tuple[str, str]] = Counter()
    for one in checks:
        seen[one.subject, one.check] += 1
        count = seen[one.subject, one.check]  # some readers keep only the first of a name
        name = one.check if count == 1 else f"{one.check} {count}"
        case = ElementTree.SubElement(suite, "testcase", classname=one.subject, name=name)
        detail = _NOT_XML.sub("�", one.detail)
        if element := _ELEMENTS.get(one.state):
            ElementTree.SubElement(case, element, message=detail)
        else:
            ElementTree.SubElement(case, "system-out").text = detail
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
