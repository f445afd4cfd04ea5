"""Answers as OpenAI's clients expect them: whole, or in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from niwfctl.serve.protocol import AnyRequest, ChatRequest

if TYPE_CHECKING:
    from niwfctl.serve.jobs import Job

Json = dict[str, Any]


class Reply:
    """The answer to a request for a completion."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self) -> None:
        self._id, self._created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())
        self._begun = False

    def whole(self, model: str, answers: Sequence[tuple[str, str]], usage: Json) -> Json:
        """All at once: the text of each answer, and why it ended."""
        choices = [
            self._choice(self._whole(text), ended, index)
            for index, (text, ended) in enumerate(answers)
        ]
        return self._object(self.whole_object, model, choices) | {"usage": usage}

    def chunk(self, model: str, text: str, ended: str | None, index: int) -> Json:
        """One piece of the answer to the prompt of this index."""
        choice = self._choice(self._piece(text, ended), ended, index)
        self._begun = True
        return self._object(self.chunk_object, model, [choice])

    def last(self, model: str, usage: Json) -> Json:
        """The chunk that says what was used."""
        return self._object(self.chunk_object, model, []) | {"usage": usage}

    def _whole(self, text: str) -> Json:
        return {"text": text}

    def _piece(self, text: str, ended: str | None) -> Json:
        return {"text": text}

    def _object(self, kind: str, model: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": model,
            "choices": choices,
        }

    def _choice(self, content: Json, ended: str | None, index: int) -> Json:
        return {"index": index, **content, "logprobs": None, "finish_reason": ended}


class ChatReply(Reply):
    """The answer to a conversation."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _whole(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _piece(self, text: str, ended: str | None) -> Json:
        role = {} if self._begun else {"role": "assistant"}
        return {"delta": role if ended else role | {"content": text}}


def reply_to(asked: AnyRequest) -> Reply:
    """An empty answer of the request's kind."""
    return ChatReply() if isinstance(asked, ChatRequest) else Reply()


def answerer(jobs: Sequence[Job]) -> str | None:
    """The model that answers a request; where its prompts have several owners, the one it named.

    None as long as none is known.
    """
    found = {job.answered_by for job in jobs if job.answered_by}
    return jobs[0].model if len(found) > 1 else next(iter(found), None)


def usage(prompt: int, answer: int) -> Json:
    """Tokens that were read and written."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def model_card(name: str, created: int) -> Json:
    """A model, as it is listed."""
    return {"id": name, "object": "model", "created": created, "owned_by": "niwfctl"}
