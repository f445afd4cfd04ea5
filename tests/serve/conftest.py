"""A real server on a free loopback port, with two capabilities on a tiny backbone."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from conftest import QUICK
from openai import OpenAI
from tiny import write_data

from niwfctl.repository import Repository
from niwfctl.repository.model import Model
from niwfctl.serve.app import PATIENCE, create_app
from niwfctl.serve.engine import Engine
from niwfctl.serve.jobs import Job
from niwfctl.serve.protocol import AnyRequest
from niwfctl.serve.server import Server, listen, url

APPLES, PLUMS = "Say apple 3.", "zzz qqq plum 5."


class Recording(Engine):
    """Remembers its last job, and counts them."""

    last: Job | None = None
    jobs = 0

    def job(self, asked: AnyRequest) -> Job:
        self.last = super().job(asked)
        self.jobs += 1
        return self.last


@dataclass
class Served:
    """A server that runs, and what it runs on."""

    repository: Repository
    model: Model
    engine: Recording
    server: Server
    url: str

    @cached_property
    def client(self) -> OpenAI:
        return OpenAI(base_url=self.url, api_key="any", max_retries=0, timeout=60)

    def stop(self) -> None:
        self.server.should_exit = True


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def held(served: Served) -> Iterator[None]:
    """A block during which the model computes nothing: those who ask in it are one batch then."""
    reached, freed = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        reached.set()
        freed.wait(30)

    hook = served.model.backbone.model.get_input_embeddings().register_forward_pre_hook(wait)
    asked = {"model": "base", "prompt": "x", "max_tokens": 1}
    first = threading.Thread(target=served.client.completions.create, kwargs=asked)
    first.start()
    assert reached.wait(30)
    hook.remove()
    try:
        yield
    finally:
        freed.set()
        first.join(30)


@contextmanager
def slowed(served: Served) -> Iterator[None]:
    """A block in which an answer takes seconds, however busy the rest of the machine is."""
    embeddings = served.model.backbone.model.get_input_embeddings()
    hook = embeddings.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def serving(
    repository: Repository,
    model: Model,
    api_key: str | None = None,
    patience: float = PATIENCE,
    grace: float = 0,
    log: Callable[[str], object] | None = None,
    **limits: int,
) -> Iterator[Served]:
    engine = Recording(repository, model, max_batch=8, batch_wait=0.02, max_tokens=64, **limits)
    listening = listen("127.0.0.1", 0)
    server = Server(engine, create_app(engine, api_key, patience=patience, log=log), grace)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    served = Served(repository, model, engine, server, url(listening))
    thread.start()
    try:
        yield served
    finally:
        served.stop()
        thread.join(30)
        assert not thread.is_alive()


def in_float32(path: Path) -> Model:
    model = Repository.open(path).load()
    model.backbone.model.float()
    return model


@pytest.fixture(scope="session")
def orchard(tmp_path_factory: pytest.TempPathFactory, _fresh: Path) -> Path:
    """A repository with `apple` and `plum`, which lie apart and answer differently."""
    folder = tmp_path_factory.mktemp("orchard")
    repository = Repository.open(shutil.copytree(_fresh, folder / "repository"))
    for name, words in (("apple", "Say apple"), ("plum", "zzz qqq plum")):
        data = write_data(folder / f"{name}.jsonl")
        data.write_text(data.read_text().replace("Say apple", words))
        repository.train(name, [data], QUICK.model_copy(update={"lr": 0.3, "seed": len(name)}))
        repository.commit([name], name)
    return repository.path


@pytest.fixture(scope="session")
def model(orchard: Path) -> Model:
    """In float32, so that a batch rounds as little as can be."""
    return in_float32(orchard)


@pytest.fixture(scope="session")
def own_model(orchard: Path) -> Model:
    """The same for a test's own use: a server's may be at the end of an answer still."""
    return in_float32(orchard)


@pytest.fixture(scope="session")
def served(orchard: Path, model: Model) -> Iterator[Served]:
    with serving(Repository.open(orchard), model) as running:
        yield running


@pytest.fixture
def client(served: Served) -> OpenAI:
    return served.client
