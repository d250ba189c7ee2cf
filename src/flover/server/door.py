"""The door: everything the routes share. Who may come in, how text becomes requests, where the engine is.

Knows the engine's client and the text side; nothing of routes and JSON.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from flover.config import EngineConfig, ServerConfig
from flover.engine.supervisor import Supervisor
from flover.errors import ConfigError, EngineDeadError, RequestError
from flover.generation_config import SamplingDefaults
from flover.request import ModelFacts, Request, SamplingParams
from flover.server.errors import DoorError, Unavailable
from flover.server.generation import Generation
from flover.server.live import Live
from flover.server.metrics import Metrics
from flover.server.protocol import GenerationBody
from flover.text.chat import ChatTemplate
from flover.text.prompts import make_request
from flover.text.tokenizer import Tokenizer

TEXT_THREADS = 2
"""Threads that tokenize and render: the event loop must stay free to stream."""
SEED_BITS = 62
"""A drawn seed plus the number of any sequence stays within 64 bits."""

OUT_OF_ENGINES = {
    "restarting": "the engine has died and is being started again",
    "dead": "the engine has died",
}

T = TypeVar("T")


class Door:
    """The shared state of one server. Lives in one event loop."""

    def __init__(self, engine_config: EngineConfig, config: ServerConfig) -> None:
        self.config = config
        self.model_names: Sequence[str] = config.served_model_name or (engine_config.model,)
        self.created = int(time.time())
        self.metrics = Metrics(self.model_names[0])
        self.engine: Supervisor | None = None
        self.tokenizer: Tokenizer | None = None
        self.template: ChatTemplate | None = None
        self.sampling_defaults: SamplingDefaults = {}
        self.live = Live(engine_config.max_num_seqs)
        self.draining = False
        self._generations: set[Generation] = set()
        self._num_open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._seeds = random.Random(engine_config.seed)
        self._threads = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="text")

    # State

    def open(
        self,
        engine: Supervisor,
        tokenizer: Tokenizer | None,
        template: ChatTemplate | None,
        sampling_defaults: SamplingDefaults,
    ) -> None:
        """The model is loaded: let requests in. `sampling_defaults` is what its files recommend."""
        self.tokenizer, self.template, self.sampling_defaults = tokenizer, template, sampling_defaults
        self.metrics.open(engine)
        self.live.open(engine)
        self.engine = engine

    @property
    def status(self) -> str:
        """ "ok", or what is the matter."""
        if self.draining:
            return "shutting down"
        if self.engine is None:
            return "loading"
        return self.engine.status

    def ready_engine(self) -> Supervisor:
        """The engine, if it takes requests now. Raises `Unavailable`."""
        if self.draining:
            raise Unavailable("the server is shutting down")
        if self.engine is None:
            raise Unavailable("the model is being loaded")
        if not self.engine.alive:
            raise Unavailable(OUT_OF_ENGINES[self.engine.status])
        return self.engine

    @property
    def facts(self) -> ModelFacts:
        """What is known of the loaded model. Raises `Unavailable` before it is loaded."""
        if self.engine is None:
            raise Unavailable("the model is being loaded")
        return self.engine.facts

    def check_model(self, name: str | None) -> str:
        """The name to answer with. Raises a 404 for a model that is not served here."""
        if name is None:
            return self.model_names[0]
        if name not in self.model_names:
            message = f"the model {name[:200]!r} is not served here; there is {', '.join(self.model_names)}"
            raise DoorError(404, message, param="model", code="model_not_found")
        return name

    # Text

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run work on text off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def need_tokenizer(self, param: str) -> Tokenizer:
        """The tokenizer. Raises `RequestError` if the server runs without one."""
        if self.tokenizer is None:
            raise RequestError(f"{param} needs a tokenizer, and none is loaded", param=param)
        return self.tokenizer

    def need_template(self) -> ChatTemplate:
        """The chat template. Raises `RequestError` if the model has none."""
        self.need_tokenizer("messages")
        if self.template is None:
            raise RequestError("the model has no chat template; --chat-template can give one", param="messages")
        return self.template

    # Generation

    async def generate(
        self,
        body: GenerationBody,
        params: SamplingParams,
        count: int,
        make_prompts: Callable[[], Sequence[str | list[int]]],
        *,
        name: str,
        add_special_tokens: bool,
    ) -> Generation:
        """Admit, tokenize and submit the `count` prompts of one HTTP request; they are made off the event loop.

        The caller must close what it gets. Raises `RequestError`, or a 429 or 503 as `DoorError`.
        """
        arrival = time.monotonic()
        self.ready_engine()
        facts, tokenizer = self.facts, self.tokenizer

        def make_requests() -> list[Request]:
            return [
                make_request(
                    prompt,
                    params,
                    request_id=f"{name}-{i}",
                    tokenizer=tokenizer,
                    facts=facts,
                    draw_seed=seeds.pop,
                    add_special_tokens=add_special_tokens,
                    priority=body.priority or 0,
                    salt=body.cache_salt or "",
                )
                for i, prompt in enumerate(make_prompts())
            ]

        with self._admission(count) as keep:
            # Drawn here, in order of arrival, and not by threads that overtake each other.
            seeds = [] if params.seed is not None else [self._seeds.getrandbits(SEED_BITS) for _ in range(count)]
            requests = await self.in_thread(make_requests)
            generation = Generation(self.ready_engine(), tokenizer, self.metrics, requests, arrival)
            keep()
        self._generations.add(generation)
        generation.on_close = lambda: self._forget(generation, count)
        return generation

    @contextmanager
    def _admission(self, count: int) -> Iterator[Callable[[], None]]:
        """Count requests as open before they cost anything; give the places back unless `keep` is called."""
        most = self.config.max_num_queued_reqs
        if count > most:
            message = f"{count} prompts are more than may be open at once (--max-num-queued-reqs {most})"
            raise RequestError(message, param="prompt")
        if self._num_open + count > most:
            self.metrics.rejected.inc()
            message = f"{self._num_open} requests are open and {count} more would exceed --max-num-queued-reqs ({most})"
            raise DoorError(429, message, code="rate_limit_exceeded")
        self._change_open(count)
        kept: list[bool] = []
        try:
            yield lambda: kept.append(True)
        finally:
            if not kept:
                self._change_open(-count)

    def _forget(self, generation: Generation, count: int) -> None:
        self._generations.discard(generation)
        self._change_open(-count)

    def _change_open(self, count: int) -> None:
        self._num_open += count
        (self._idle.clear if self._num_open else self._idle.set)()

    # The end

    async def drain(self, seconds: float) -> bool:
        """Let nobody in any more and wait for the open requests; whether all ended in time."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def abort_open(self) -> None:
        """End all open requests with an error that their clients see, and the watching with them."""
        self.draining = True
        self.live.close()
        for generation in list(self._generations):
            generation.abort(EngineDeadError("the server is shutting down"))

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def check_exposure(config: ServerConfig) -> None:
    """Refuse to listen for strangers without a key. Raises `ConfigError`."""
    if config.api_key is None and config.host not in {"localhost", "::1"} and not config.host.startswith("127."):
        raise ConfigError(
            f"--host {config.host} lets other machines in: give clients a key with --api-key or FLOVER_API_KEY"
        )
