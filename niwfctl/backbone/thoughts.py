"""Blocks of thoughts, `<think>` to `</think>`, that prompts open and answers close."""

from __future__ import annotations

import re

from niwfctl.errors import DataError
from niwfctl.records import Example

OPEN, CLOSE = "<think>", "</think>"
_BEGUN = re.compile(rf"{OPEN}\s*(?P<empty>{CLOSE}\s*)?\Z")
_EMPTY = re.compile(rf"\A\s*{OPEN}\s*{CLOSE}\s*")


def require_sound(prompt: str, answer: str) -> None:
    """Requires that an answer to be learned closes the block of thoughts that its prompt opens.

    Raises:
        DataError: it would be learned as thoughts that never end, or as some after their end.
    """
    begun = _BEGUN.search(prompt)
    if begun and begun["empty"] and CLOSE in answer:
        raise _no_place()
    if _is_open(prompt) and CLOSE not in answer:
        raise DataError(
            f"the prompt ends with {OPEN}, and the answer has no {CLOSE}, so it would be learned "
            "as a thought: give the turn its `reasoning_content`, or turn thinking off with "
            "`niwfctl init --template-arg` if the backbone's template can"
        )


def answer_after(prompt: str, example: Example) -> str:
    """What is said after a prompt, if the template does not write the two in one.

    An answer is given as it is, but without what it only repeats of the prompt's end, and after
    its reasoning if the prompt is open for it.

    Raises:
        DataError: the prompt has no place for its reasoning.
    """
    begun = _BEGUN.search(prompt)
    if example.reasoning_content is not None:
        return _after_reasoning(prompt, example)
    return _without(begun, example.answer) if begun else example.answer


def _after_reasoning(prompt: str, example: Example) -> str:
    """Reasoning, the end of its block and the answer, spaced as models of this kind do."""
    if not _is_open(prompt):
        raise _no_place()
    line = "" if prompt.endswith("\n") else "\n"
    thought = example.reasoning_content.strip("\n")
    return f"{line}{thought}\n{CLOSE}\n\n{example.answer}"


def _is_open(prompt: str) -> bool:
    begun = _BEGUN.search(prompt)
    return bool(begun and not begun["empty"])


def _without(begun: re.Match[str], answer: str) -> str:
    """An answer without what stands at the end of its prompt already: a block, or its beginning."""
    if begun["empty"]:
        return _EMPTY.sub("", answer)
    text = answer.lstrip()
    if not text.startswith(OPEN):
        return answer
    return text.removeprefix(begun[0] if text.startswith(begun[0]) else OPEN)


def _no_place() -> DataError:
    return DataError(
        "the answer has reasoning, which the backbone's chat template does not write after this "
        "prompt: leave it out to learn the answer alone, or begin with a backbone, or arguments "
        "of its template, that make it think"
    )
