"""What clients may ask, in OpenAI's terms: the fields of requests, and those we support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from niwfctl.records import OTHER_ROLES, Message, is_encodable, joined

MAX_STOPS = 16

# Accepted and ignored: cannot change an answer.
_IDLE = {
    "metadata",
    "name",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
# Unsupported, but accepted at values that ask for nothing.
_NEUTRAL: dict[str, Sequence[object]] = {
    "annotations": ([],),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}


def _neutral(name: str, value: object) -> bool:
    return any(type(one) is type(value) and one == value for one in _NEUTRAL.get(name, ()))


def _encodable(text: str) -> str:
    if not is_encodable(text):
        raise ValueError("it holds half of a surrogate pair: send UTF-8 text")
    return text


def _texts(prompt: object) -> object:
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts or not all(isinstance(one, str) for one in prompts):
        raise ValueError("it is neither a text nor a list of texts (tokens are not taken)")
    if "" in prompts:
        raise ValueError("it is empty: send the text to continue")
    return prompts


def _listed(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop or []


Text = Annotated[str, AfterValidator(_encodable)]
StopText = Annotated[Text, Field(min_length=1)]


class _Known(BaseModel):
    """Rejects fields it would otherwise silently ignore."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _asking_for_something(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {
            name: value
            for name, value in fields.items()
            if value is not None
            and not (name not in cls.model_fields and (name in _IDLE or _neutral(name, value)))
        }


class StreamOptions(_Known):
    """How a stream ends."""

    include_usage: bool = False
    include_obfuscation: bool = Field(default=False, description="ignored: we send none")


class Asked(_Known):
    """What both kinds of request have in common.

    Attributes:
        usual: longest answer, in tokens, if a request does not say; None: the server's default.
    """

    usual: ClassVar[int | None] = None

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[StopText], BeforeValidator(_listed), Field(max_length=MAX_STOPS)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @property
    def longest(self) -> int | None:
        """How many tokens the answer may have: the smaller of both limits; None: none is given."""
        limits = [self.max_tokens, self.max_completion_tokens]
        return min((limit for limit in limits if limit is not None), default=None)


class CompletionRequest(Asked):
    """`POST /v1/completions`: texts, each continued as it is."""

    usual: ClassVar[int | None] = 16  # OpenAI's own

    prompt: Annotated[list[Text], BeforeValidator(_texts)]

    @property
    def each(self) -> list[CompletionRequest]:
        """The same request for each of the texts."""
        return [self.model_copy(update={"prompt": [text]}) for text in self.prompt]

    @property
    def text(self) -> str:
        """The only text."""
        (text,) = self.prompt
        return text


class ChatMessage(_Known):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(joined)]


class ChatRequest(Asked):
    """`POST /v1/chat/completions`: a conversation, in the backbone's template."""

    messages: list[ChatMessage] = Field(min_length=1)
    chat_template_kwargs: dict[str, Any] = {}

    @property
    def each(self) -> list[ChatRequest]:
        """This request, which is of one prompt."""
        return [self]

    @property
    def conversation(self) -> list[Message]:
        """The turns, as the template knows them."""
        return [Message(OTHER_ROLES.get(one.role, one.role), one.content) for one in self.messages]


AnyRequest = CompletionRequest | ChatRequest
