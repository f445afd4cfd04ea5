"""The loaded backbone with the capabilities of a repository."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, NoReturn, Self

from niwfctl.atlas import parse_target
from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.batch import batched
from niwfctl.backbone.generation import AnswerOptions, Request, answer, require_positive
from niwfctl.backbone.load import load
from niwfctl.backbone.scoring import Score, Scorer
from niwfctl.backbone.sites import find_sites
from niwfctl.errors import UsageError
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.field.naming import under
from niwfctl.records import Example, Message
from niwfctl.repository.backbone import fitting, pinned_source
from niwfctl.repository.chosen import (
    AUTO,
    Chosen,
    Each,
    Mixtures,
    RowCapabilities,
    called,
    is_routed,
)
from niwfctl.repository.mixture import Mixture, Routes
from niwfctl.repository.one_thread import one_thread
from niwfctl.repository.places import Places
from niwfctl.repository.reading import Prompt, conversation, prompted
from niwfctl.repository.regions import read_coordinates
from niwfctl.repository.resident import RESIDENT, Resident

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


USUAL = 256  # tokens of the longest answer, if nothing is said
_FREED = ("adapter", "backbone", "resident")  # by `close`


@one_thread(
    *("use", "use_each", "route", "close", "generate", "answers", "answer", "score"),
    *("bids", "owner", "owners", "coordinate", "coordinates", "read"),
)
class Model(Places):
    """A backbone with one active capability, or none.

    Recently used regions stay in memory, so that returning to one is instant. Names follow HEAD: a
    capability is what is committed there when it is made active; until the next call of `use`,
    `use_each` or `route`, what is active stays as it is.

    A model is for one thread at a time, as transformers' own are: what is active is a state of it,
    so that two threads would answer under each other's capabilities. Let one thread own it, and
    hand others' requests to that one. Calls of two threads at once raise a UsageError.

    Close it, or use it as a context manager, to free its memory at once. A closed model raises a
    UsageError.

    Attributes:
        repository: whose capabilities these are.
        backbone: the pinned one, frozen.
        adapter: the field inside the model, for those who call the model themselves.
        resident: the regions in memory.
        routes: who owns what, after `route`, or `use_each` with AUTO; its `names` tell who answered
            the prompts of the last call of `generate`, `answers`, `answer` or `score`.
    """

    def __init__(self, repository: Repository, resident: int = RESIDENT) -> None:
        """Loads the pinned backbone.

        Args:
            resident: most regions to keep in memory.

        Raises:
            BackboneError: it is missing, or is not the pinned one.
            MemoryFull: it does not fit.
            ObjectError: the coordinate map is missing or corrupt.
        """
        config, pinned = repository.config, repository.config.backbone
        self.repository, fix_regex = repository, bool(pinned.fix_mistral_regex)
        with fitting(pinned.quant):
            source = pinned_source(repository)
            backbone = load(source, pinned.quant, pinned.template_args, fix_regex)
        stored = read_coordinates(repository)
        coordinates = CoordinateMap.from_tensors(under(stored, "map"))
        sites = find_sites(backbone.model, config.field.tap_layer)
        adapter = FieldAdapter(backbone.model, sites, coordinates)
        super().__init__(backbone, config.field, adapter, Mixtures(repository))
        self.resident = Resident(repository, self.adapter, resident)
        self.base_probe = stored["probe"]
        self.routes: Routes | None = None
        self._name = pinned.model
        self._chosen = Chosen(None, called(None))

    def close(self) -> None:
        """Takes the field out of the backbone and lets go of both; twice is no error.

        The memory is free once nobody else holds `backbone` or `adapter`.
        """
        if self._closed:
            return
        self.adapter.detach()
        self._choose(Chosen(None, called(None)))  # regions refer to the adapter, and it to them
        for name in _FREED:
            delattr(self, name)

    @property
    def _closed(self) -> bool:
        return "backbone" not in vars(self)

    if not TYPE_CHECKING:  # where names that do not exist must be found

        def __getattr__(self, name: str) -> NoReturn:
            """Called for what is not there: never was, or went with `close`."""
            if name in _FREED:
                raise UsageError("this model is closed: load it again with `Repository.load`")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # an error of the block is not replaced by that of another thread being in the model
        with suppress(UsageError) if kind else nullcontext():
            self.close()

    def __repr__(self) -> str:
        about = "closed"
        if not self._closed:
            by_hand = self._chosen.field is not self.adapter.active
            active = "a field of the caller's" if by_hand else self._chosen.label
            about = f"{self._name} on {self.device}, active: {active}"
        return f"<Model of {self.repository.path}: {about}>"

    def use(self, capability: str | None) -> None:
        """Makes a capability active; for a resident one, this is only a lookup.

        Args:
            capability: `NAME`, as HEAD has it now; `NAME@REV`, as the revision has it now; None
                for the bare backbone.

        Raises:
            UnknownName: there is no such capability.
            ObjectError: an object is missing or corrupt.
        """
        field = self.resident.acting(self._mixture(capability))
        self._choose(Chosen(field, called(capability), routes=self._routes([capability])))

    def use_each(self, capabilities: Sequence[str | None]) -> None:
        """Makes a capability active for each row, AUTO or `AUTO@REV` for the owner of its prompt.

        Names mean what they do to `use`. From now on as many rows must be given to `score`,
        `answers`, `answer` and `generate`; row i is taken under the i-th capability, whatever
        batches the rows are computed in.

        Raises:
            UnknownName: there is no such capability.
            ObjectError: an object is missing or corrupt.
            UsageError: a single name is given.
        """
        if isinstance(capabilities, str):
            raise UsageError(
                f"use_each takes a list, with a capability for each row, not {capabilities!r}: to "
                "make one active for all rows, call `use`"
            )
        names = tuple(capabilities)
        rows = RowCapabilities(names, {name: self._mixture(name) for name in dict.fromkeys(names)})
        field = self.resident.acting(rows.at(range(len(names))))
        label = f"for each row its own ({reprlib.repr([called(name) for name in names])[1:-1]})"
        self._choose(Chosen(field, label, rows, self._routes(names)))

    def _choose(self, chosen: Chosen) -> None:
        self.adapter.active, self._chosen = chosen.field, chosen

    def _each(self, count: int) -> Each:
        return self._chosen.each(self.adapter, self.resident, count)

    def route(self, revision: str = "HEAD") -> Routes:
        """Lets the owner of each prompt's coordinate answer it, by a revision's atlas (G3).

        Returns:
            Who owns what; its `names` tell who answered each prompt of the last call.

        Raises:
            ObjectError: an object is missing or corrupt.
            UnknownName: there is no such revision.
        """
        mixture, self.routes = self._mixtures.routed(revision)
        routes = {AUTO: self.routes}
        self._choose(Chosen(self.resident.acting(mixture), called(AUTO), routes=routes))
        return self.routes

    def _mixture(self, capability: str | None) -> Mixture:
        if not isinstance(capability, str | None):
            raise UsageError(
                f"a capability cannot be of type {type(capability).__name__}: give its name, or "
                "None for the base; to give each row its own, call `use_each`"
            )
        if not is_routed(capability):
            return self._mixtures.of(capability)
        mixture, self.routes = self._mixtures.routed(parse_target(capability)[1])
        return mixture

    def _routes(self, names: Sequence[str | None]) -> dict[str, Routes]:
        """Who owns what, by each of the names that lets owners answer."""
        routed = filter(is_routed, dict.fromkeys(names))
        return {name: self._mixtures.routed(parse_target(name)[1])[1] for name in routed}

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        stream: Callable[[str], None] | None = None,
    ) -> str:
        """Answers a prompt with what is active, reading the prompt once.

        Args:
            prompt: the user's words, or a conversation that ends with them.
            max_new_tokens: longest answer; None: 256, or what the context has left.
            temperature: 0 takes the likeliest token each time.
            top_p: only the likeliest tokens that together have this share of the probability are
                sampled from.
            seed: of the sampling.
            stop: texts that end the answer and are not part of it.
            stream: called with each new piece of text.

        Raises:
            UsageError: the prompt is empty, or longer than the backbone can read, or an option is
                out of its range, or several capabilities are active after `use_each`.
            DataError: a turn has an unknown role, or the template refuses the conversation.
        """
        options = _options(max_new_tokens, temperature, top_p, seed, stop)
        request = self.request(conversation(prompt), options, max_new_tokens is None)
        if stream:
            request.hand_on = stream
        self.answer([request])
        return request.text.strip()

    def answers(
        self,
        prompts: Sequence[Example | Prompt],
        max_new_tokens: int | None = None,
        batch_size: int = 8,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> list[str]:
        """The answer to each prompt as `generate` would give it, in their order.

        Args:
            prompts: examples, of which the prompt is taken; texts; or conversations.
            max_new_tokens: longest answer; None: 256, or what the context has left.
            batch_size: how many to answer at once.

        Raises:
            UsageError: as `generate`; after `use_each`, their number is not that of its
                capabilities.
            DataError: as `generate`.
        """
        require_positive("batch_size", batch_size)
        options = _options(max_new_tokens, temperature, top_p, seed, stop)
        shorten = max_new_tokens is None
        requests = [self.request(one.messages, options, shorten) for one in prompted(prompts)]
        each = self._each(len(requests))
        for places in batched(range(len(requests)), batch_size):
            with each(places):
                answer(self.backbone, self.adapter, [requests[place] for place in places])
        return [request.text.strip() for request in requests]

    def request(
        self, messages: Sequence[Message], options: AnswerOptions, shorten: bool = False
    ) -> Request:
        """A conversation, to be answered.

        Args:
            shorten: let the longest answer be what the context has left, if that is less.

        Raises:
            UsageError: with the longest answer, it exceeds what the backbone can read.
            DataError: the template refuses it.
        """
        tokens, skip = self.prompt(messages)
        room = max(1, self.longest - len(tokens))
        if shorten and room < options.max_new_tokens:
            options = replace(options, max_new_tokens=room)
        if len(tokens) + options.max_new_tokens > self.longest:
            raise UsageError(
                f"the prompt has {len(tokens)} tokens; with --max-new-tokens "
                f"{options.max_new_tokens} that is more than the {self.longest} that this "
                "backbone can read: shorten either"
            )
        return Request(self.backbone.tokenizer, tokens, skip, options)

    def answer(
        self, requests: Sequence[Request], pause: Callable[[], bool] = lambda: False
    ) -> None:
        """Answers requests in one batch, each as if alone.

        Args:
            pause: asked after each step whether to return for now; requests that are not `over`
                may be given again, in any batch.

        Raises:
            UsageError: after `use_each`, their number is not that of its capabilities.
        """
        if not requests:
            return
        with self._each(len(requests))(range(len(requests))):
            answer(self.backbone, self.adapter, requests, pause)

    def score(
        self,
        examples: Sequence[Example],
        batch_size: int = 8,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Score:
        """Perplexity of the answers' tokens, with what is active.

        Args:
            progress: called with (examples done, in all).

        Raises:
            DataError: an example is longer than the backbone can read.
            UsageError: after `use_each`, their number is not that of its capabilities.
        """
        require_positive("batch_size", batch_size)
        each = self._each(len(examples))
        batches, total = count(1), len(examples)
        scorer = Scorer(self.adapter, self.skip)
        return scorer.score(
            self.encode(examples),
            batch_size,
            lambda: progress(min(next(batches) * batch_size, total), total),
            each,
        )


def _options(
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int | None,
    stop: str | Sequence[str],
) -> AnswerOptions:
    longest = USUAL if max_new_tokens is None else max_new_tokens
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    return AnswerOptions(longest, temperature, top_p, seed, stops)
