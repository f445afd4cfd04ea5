"""One model, one thread that owns it, and the requests that wait for it."""

from __future__ import annotations

import asyncio
import json
import logging
import reprlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

from niwfctl.atlas import AUTO_NAME, BASE_NAME, get_capability, parse_target
from niwfctl.backbone.generation import AnswerOptions, Request
from niwfctl.errors import NiwfError, UnknownName, of_device, of_memory, reason
from niwfctl.repository.model import AUTO, Model
from niwfctl.repository.repository import Repository
from niwfctl.serve.errors import OURS, ApiError, as_api_error
from niwfctl.serve.jobs import Job, Piece, Turn
from niwfctl.serve.protocol import AnyRequest, ChatRequest

LONGEST_NAME = 1000  # of a model; git resolves it, and command lines are limited

logger = logging.getLogger(__name__)


class Engine:
    """Answers waiting requests together in batches, each with the capability it names.

    Attributes:
        broken: how the device failed; then nothing can be answered any more. None while it works.
    """

    def __init__(
        self,
        repository: Repository,
        model: Model,
        *,
        max_batch: int,
        batch_wait: float,
        max_tokens: int,
        max_queue: int = 256,
        max_answer_tokens: int | None = None,
    ) -> None:
        """
        Args:
            repository: its HEAD, at each request, says which capabilities there are.
            model: no other thread touches it while the engine runs.
            max_batch: most rows in a batch.
            batch_wait: seconds that a batch waits for more rows.
            max_tokens: longest answer if a request does not say.
            max_queue: most requests waiting or being answered.
            max_answer_tokens: longest answer of all; None: what the context holds.
        """
        self._repository, self._model = repository, model
        self._max_batch, self._batch_wait, self._max_tokens = max_batch, batch_wait, max_tokens
        self._max_queue = max_queue
        self._max_answer = max_answer_tokens or model.longest
        self._template_args = repository.config.backbone.template_args
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._unanswered: set[Job] = set()
        self._being_read = 0
        self._widest = max(map(len, model.backbone.tokenizer.get_vocab()))
        self._refusing = self._closed = False
        self.broken: str | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A block in which jobs are answered."""
        self._loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "niwfctl-model") as worker:
            self._working = asyncio.create_task(self._work(worker))
            self._working.add_done_callback(_log_death)
            try:
                yield
            finally:
                self.close()
                self._working.cancel()
                await asyncio.wait([self._working])

    def require_working(self) -> None:
        """Requires that requests are taken and answered.

        Raises:
            ApiError: the server is shutting down, or what answers has died.
        """
        if self._refusing:
            raise _closing()
        if self._working.done():
            raise ApiError(503, "the server can answer no more: restart it; its log says why", OURS)

    def refuse(self) -> None:
        """Takes no more requests; those taken are still answered."""
        self._refusing = True

    @property
    def busy(self) -> bool:
        """Whether requests are being read, waiting or being answered."""
        return self._taken > 0

    @property
    def _taken(self) -> int:
        return len(self._unanswered) + self._being_read

    def close(self) -> None:
        """Ends every answer where it is, and takes no more jobs."""
        self._refusing = self._closed = True
        for job in self._unanswered:
            self.cancel(job, _closing())

    def names(self) -> list[str]:
        """Models to ask for: HEAD's capabilities, the base, and `auto`."""
        return list(dict.fromkeys([*sorted(self._repository.atlas()), BASE_NAME, AUTO_NAME]))

    def resolve(self, name: str) -> str | None:
        """The capability a model's name means right now, as `Model.use_each` takes it.

        Raises:
            UnknownName: there is no such capability or revision.
        """
        if name == BASE_NAME:
            return None
        if name == AUTO_NAME:
            return f"{AUTO}@{self._repository.git.resolve('HEAD')}"
        if not name.isprintable() or len(name) > LONGEST_NAME:
            raise UnknownName(f"no model is called {reprlib.repr(name)}: see /v1/models")
        plain, at, revision = name.partition("@")
        commit = self._repository.git.resolve(revision if at else "HEAD")
        return f"{get_capability(self._repository.atlas(commit), plain).name}@{commit}"

    @contextmanager
    def reading(self, prompts: int = 1) -> Iterator[None]:
        """A block in which prompts of a request are read; they already count as waiting.

        Raises:
            ApiError: the queue is full, or the server is shutting down.
        """
        if self._refusing:
            raise _closing()
        self._require_room(prompts)
        self._being_read += prompts
        try:
            yield
        finally:
            self._being_read -= prompts

    def job(self, asked: AnyRequest) -> Job:
        """The job that a request of one prompt asks for; it is not queued yet.

        Raises:
            UnknownName: no capability has this name.
            ApiError: prompt and answer are longer than the backbone can read, or the answer is
                longer than the server allows.
                It also asks for arguments of the template that are not those of `init`.
            DataError: the chat template refuses the conversation.
        """
        capability = self.resolve(asked.model)
        if isinstance(asked, ChatRequest):
            self._require_pinned(asked.chat_template_kwargs)
        self._require_readable(asked)
        tokens, skip = self._read(asked)
        room = self._model.longest - len(tokens)
        wanted = asked.longest or max(
            1, min(asked.usual or self._max_tokens, room, self._max_answer)
        )
        if wanted > room:
            raise _too_long(
                asked,
                f"the prompt has {len(tokens)} tokens, and with {wanted} for the answer that is "
                f"more than the {self._model.longest} this backbone can read: shorten one of them",
            )
        if wanted > self._max_answer:
            raise ApiError(
                400,
                f"{wanted} tokens are more than the {self._max_answer} that this server allows in "
                "an answer: ask for fewer",
                param="max_tokens",
                code="invalid_value",
            )
        options = AnswerOptions(
            wanted, asked.temperature, asked.top_p, asked.seed, tuple(asked.stop)
        )
        return Job(
            asked.model, capability, Request(self._model.backbone.tokenizer, tokens, skip, options)
        )

    async def answer(self, jobs: Sequence[Job]) -> AsyncGenerator[Piece, None]:
        """Queues the jobs of a request and gives their answers in pieces; leaving early cancels it.

        Raises:
            Exception: whatever kept one from being answered.
        """
        if self._closed:
            raise _closing()
        self._require_room(len(jobs))
        events: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        for index, job in enumerate(jobs):
            job.index, job.events = index, events
            self._unanswered.add(job)
            self._queue.put_nowait(job)
        try:
            going = len(jobs)
            while going:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                going -= event.ended is not None
                yield event
        finally:
            for job in jobs:
                job.row.cancelled = True
                self._unanswered.discard(job)

    def cancel(self, job: Job, reason: Exception) -> None:
        """Ends an answer where it is; its client is told why."""
        job.row.cancelled = True
        job.events.put_nowait(reason)

    def _require_room(self, prompts: int) -> None:
        if prompts > self._max_queue:
            raise ApiError(
                400,
                f"{prompts} prompts are more than the {self._max_queue} that may wait on this "
                "server: ask for fewer at once",
                param="prompt",
                code="invalid_value",
            )
        if self._taken + prompts > self._max_queue:
            raise ApiError(
                429,
                f"{self._max_queue} requests wait already: ask again later",
                "rate_limit_error",
                code="rate_limit_exceeded",
            )

    def _require_pinned(self, wanted: Mapping[str, object]) -> None:
        pinned = self._template_args
        for name, value in wanted.items():
            if name not in pinned or (type(value), value) != (type(pinned[name]), pinned[name]):
                raise ApiError(
                    400,
                    "`chat_template_kwargs` are pinned at init (here: "
                    f"{json.dumps(pinned) if pinned else 'none'}): leave {name!r} out, or serve a "
                    "repository that was made with another --template-arg",
                    param="chat_template_kwargs",
                    code="invalid_value",
                )

    def _require_readable(self, asked: AnyRequest) -> None:
        """Refuses text too long however few tokens it has, before the slow counting of them."""
        if isinstance(asked, ChatRequest):  # each message takes at least one token
            length = sum(max(len(one.content), self._widest) for one in asked.messages)
        else:
            length = len(asked.text)
        if length > self._model.longest * self._widest:
            raise _too_long(
                asked,
                f"the prompt is longer than the {self._model.longest} tokens that this backbone "
                "can read, whatever tokens it has: shorten it",
            )

    def _read(self, asked: AnyRequest) -> tuple[list[int], int]:
        """A request's tokens, and how many of them its coordinate leaves out."""
        tokenizer = self._model.backbone.tokenizer
        if isinstance(asked, ChatRequest):
            return self._model.prompt(asked.conversation)
        begun = bool(tokenizer.bos_token) and asked.text.startswith(tokenizer.bos_token)
        tokens = tokenizer(asked.text, add_special_tokens=not begun)["input_ids"]
        return tokens, self._model.skipped(tokens)

    async def _work(self, worker: ThreadPoolExecutor) -> None:
        jobs: list[Job] = []
        while True:
            jobs += await (self._waiting() if not jobs else self._joining(len(jobs)))
            jobs = await self._loop.run_in_executor(worker, self._answer, jobs)

    async def _waiting(self) -> list[Job]:
        jobs = [await self._queue.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._batch_wait):
                while len(jobs) < self._max_batch:
                    jobs.append(await self._queue.get())
        return jobs

    async def _joining(self, going: int) -> list[Job]:
        """Those who wait already, as far as there are places beside the unfinished ones."""
        return [
            self._queue.get_nowait()
            for _ in range(min(self._max_batch - going, self._queue.qsize()))
        ]

    def _answer(self, jobs: Sequence[Job]) -> list[Job]:
        """Answers in one batch, until others can join it; returns those who are to go on."""
        jobs = [job for job in jobs if not job.row.over]
        if not jobs:
            return []
        turn = Turn(partial(self._others_can_join, jobs))
        failure = _failed() if self.broken else self._attempt(jobs, turn)
        if failure and (len(jobs) == 1 or self.broken):
            for job in jobs:
                self._tell(job, failure)
        elif failure:  # a fault of one must not harm the others
            half = len(jobs) // 2
            return [*self._answer(jobs[:half]), *self._answer(jobs[half:])]
        return [] if failure else [job for job in jobs if not job.row.over]

    def _others_can_join(self, jobs: Sequence[Job]) -> bool:
        going = sum(not job.row.over for job in jobs)
        return going < self._max_batch and not self._queue.empty()

    def _attempt(self, jobs: Sequence[Job], pause: Callable[[], bool]) -> ApiError | None:
        """Answers in one batch; returns what to tell the clients if that fails.

        The error itself ends here: it keeps alive everything the batch had in memory.
        """
        for job in jobs:
            job.row.hand_on = partial(self._pass_on, job)
            job.begun = job.begun or time.monotonic()
        try:
            self._model.use_each([job.capability for job in jobs])
            self._model.answer([job.row for job in jobs], pause)
            return None
        except Exception as error:
            if not isinstance(error, NiwfError):
                logger.exception("a batch of %d could not be answered", len(jobs))
            failure, full = as_api_error(error), of_memory(error)
            if of_device(error):
                failure, self.broken = _failed(), reason(error)
        if full:
            self._model.resident.drop_idle()
        return failure

    def _pass_on(self, job: Job, text: str) -> None:
        if job.answered_by is None:
            job.answered_by = self._answerer(job)
        self._tell(job, Piece(text, job.answered_by, job.row.ended, job.index))

    def _answerer(self, job: Job) -> str:
        if job.model != AUTO_NAME:
            return job.model
        _, revision = parse_target(job.capability)
        return self._model.owner(job.row.z, revision) or BASE_NAME

    def _tell(self, job: Job, event: Piece | Exception) -> None:
        self._loop.call_soon_threadsafe(job.events.put_nowait, event)


def _log_death(working: asyncio.Task[None]) -> None:
    if not working.cancelled() and (error := working.exception()):
        logger.error("no request can be answered any more", exc_info=error)


def _too_long(asked: AnyRequest, why: str) -> ApiError:
    param = "messages" if isinstance(asked, ChatRequest) else "prompt"
    return ApiError(400, why, param=param, code="context_length_exceeded")


def _failed() -> ApiError:
    said = "the GPU failed, and the server ends: ask again once it was started again"
    return ApiError(503, said, OURS, code="device_failed")


def _closing() -> ApiError:
    return ApiError(503, "the server is shutting down", OURS)
