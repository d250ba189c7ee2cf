"""The state shared by all routes: configuration, tokenizer, chat template, supervisor, admission, metrics."""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from starlette.datastructures import Headers
from starlette.types import Scope

from flover.config import EngineConfig, ServerConfig
from flover.errors import EngineClosedError, RequestError, quoted
from flover.generation_config import SamplingDefaults
from flover.request import ModelFacts, Request, SamplingParams, check_fits
from flover.server.adapters import ServedAdapters
from flover.server.admission import AdmissionControl, RequestSize, check_shared_ids
from flover.server.batches.batches import Batches
from flover.server.deadlines import Pace, missed
from flover.server.errors import HttpError, Unavailable
from flover.server.generation import Generation
from flover.server.http_keys import combine_salts
from flover.server.live import Live
from flover.server.logprob_limits import check_logprobs
from flover.server.metrics import Metrics
from flover.server.protocol import GenerationBody
from flover.server.rates import Account, accounts
from flover.server.text_threads import TextThreads
from flover.server.tracing import Traces
from flover.server.usage import Usage
from flover.service.grammar_check import GrammarCheck
from flover.service.supervisor import Supervisor
from flover.text.chat import ChatTemplate
from flover.text.output_format import OutputFormat
from flover.text.prompts import bad_words_ids, check_text_limits, make_request
from flover.text.stops import StopTable
from flover.text.stream import TextStart, text_start
from flover.text.tokenizer import Tokenizer

SEED_BITS = 62
"""Bits of a random seed: the seed plus the index of a sequence must fit 64 bits."""

OUT_OF_ENGINES = {
    "restarting": "the engine has died and is being started again",
    "dead": "the engine has died",
}

T = TypeVar("T")


class AppState:
    """The shared state of one server. Used in one event loop."""

    def __init__(self, engine_config: EngineConfig, config: ServerConfig) -> None:
        self.config = config
        self.model_names: Sequence[str] = config.served_model_name or (engine_config.model,)
        self.adapters = ServedAdapters(engine_config, config, self.model_names)
        self.created = int(time.time())  # noqa: TID251
        self.metrics = Metrics(self.model_names[0], config.metrics_prefix)
        self.supervisor: Supervisor | None = None
        self.tokenizer: Tokenizer | None = None
        self.template: ChatTemplate | None = None
        self.output_format = OutputFormat()
        """What the model's answers look like."""
        self.pooling: str | None = None
        self.sampling_defaults: SamplingDefaults = {}
        self.live = Live(engine_config.max_num_seqs)
        self.batches: Batches | None = None  # set once the model is loaded
        self.draining = False
        self._backfill = ""
        """What the names of clients end with, if it is for their backfill."""
        self._generations: set[Generation] = set()
        self._round_lock = asyncio.Lock()
        self.admission = AdmissionControl(config, self.metrics.rejected.inc)
        self.accounts = accounts(config.api_key, config.key_limits)
        self.max_num_seqs = engine_config.max_num_seqs * engine_config.data_parallel_size
        """Rows of all engines."""
        self._pace = Pace(self.max_num_seqs)
        self._takes_turns = engine_config.scheduling_policy == "fcfs" and engine_config.strategy == "fusion"
        self.usage = Usage(config.usage_log)
        endpoint = config.otlp_traces_endpoint
        self._traces = None if endpoint is None else Traces(endpoint, self.model_names[0])
        self.threads = TextThreads()
        self._grammars = GrammarCheck()
        self._seeds = random.Random(engine_config.seed)

    # State

    def open(
        self,
        supervisor: Supervisor,
        tokenizer: Tokenizer | None,
        template: ChatTemplate | None,
        sampling_defaults: SamplingDefaults,
    ) -> None:
        """Accept requests: the model is loaded. `sampling_defaults` are those of its files."""
        self.tokenizer, self.template, self.sampling_defaults = tokenizer, template, sampling_defaults
        if template is not None:
            parsers = self.config.tool_call_parser, self.config.reasoning_parser
            self.output_format = OutputFormat.of(template.source, *parsers)
        self.metrics.open(supervisor)
        self.live.open(supervisor)
        self.supervisor = supervisor

    def for_backfill(self) -> AppState:
        """The state for requests that are computed only while no others are: they use up no limit, rate or pace of the
        others, and are not in their metrics. To be made once the model is loaded."""
        state = copy.copy(self)
        state._backfill = "/backfill"
        state.metrics = Metrics(self.model_names[0])
        state.admission = AdmissionControl(self.config, lambda: None)
        state._pace = Pace(self.max_num_seqs)
        state.accounts = accounts(self.config.api_key, [limits.without_rates() for limits in self.config.key_limits])
        return state

    @property
    def status(self) -> str:
        """ "ok", or why requests are not accepted."""
        if self.draining:
            return "shutting down"
        if self.supervisor is None:
            return "loading"
        return self.supervisor.status

    def ready_supervisor(self) -> Supervisor:
        """The supervisor, if it takes requests now. Raises `Unavailable`."""
        if self.draining:
            raise Unavailable("the server is shutting down")
        if self.supervisor is None:
            raise Unavailable("the model is being loaded")
        if not self.supervisor.alive:
            raise Unavailable(OUT_OF_ENGINES[self.supervisor.status])
        return self.supervisor

    @property
    def facts(self) -> ModelFacts:
        """The facts of the loaded model. Raises `Unavailable` before it is loaded."""
        if self.supervisor is None:
            raise Unavailable("the model is being loaded")
        return self.supervisor.facts

    def check_model(self, name: str | None) -> str:
        """The model name for the response. Raises a 404 for a model that is not served."""
        if name is None:
            return self.model_names[0]
        if name not in self.model_names and self.adapters.get(name) is None:
            there = ", ".join([*self.model_names, *self.adapters.names])
            message = f"the model {quoted(name)} is not served here; there is {there}"
            raise HttpError(404, message, param="model", code="model_not_found")
        return name

    # Text

    async def next_round(self) -> None:
        """Wait for the next round of the event loop: of requests that arrive at once, one is processed in each round,
        so that streams and `/health` are served in between."""
        async with self._round_lock:
            await asyncio.sleep(0)

    async def in_thread(self, work: Callable[[], T], num_chars: int = 0) -> T:
        """Run work on a text of about `num_chars` characters off the event loop."""
        return await self.threads.run(work, num_chars)

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
        key_salt: str,
        num_chars: int = 0,
    ) -> Generation:
        """Admit, tokenize and submit the `count` prompts of one HTTP request; they are made off the event loop.
        `key_salt` is that of the request's API key (`http_keys.salt_of`), `num_chars` about the length of all texts.

        The caller must close the generation. Raises `RequestError`, or a 429 or 503 as `HttpError`.
        """
        arrival = time.monotonic()
        params = self.adapters.join(body.model, params)
        self.ready_supervisor()
        facts, tokenizer, account = self.facts, self.tokenizer, self.accounts[key_salt]
        salt = combine_salts("" if self.config.share_prefixes else key_salt, body.cache_salt or "")

        def prepare(
            prompt: str | list[int], number: int, stops: StopTable, banned: list[list[int]]
        ) -> tuple[Request, TextStart]:
            request = make_request(
                prompt,
                params,
                request_id=f"{name}-{number}",
                tokenizer=tokenizer,
                facts=facts,
                draw_seed=seeds.pop,
                add_special_tokens=add_special_tokens,
                priority=body.priority or 0,
                salt=salt,
                client=key_salt + self._backfill,
                weight=account.weight,
                banned=banned,
            )
            request = self._checked(request, body)
            return request, text_start(tokenizer, params, request.prompt_ids, echo=bool(body.echo), stops=stops)

        def prepare_all() -> list[tuple[Request, TextStart]]:
            stops, banned = StopTable(params.stop_strings), bad_words_ids(params.bad_words or [], tokenizer)
            check_shared_ids(params, banned, count)
            return [prepare(prompt, number, stops, banned) for number, prompt in enumerate(make_prompts())]

        size = RequestSize(count, count * params.n)
        with self.admission.enter(size) as keep:
            self._check_now(body, params, size, account, arrival)
            await self._check_constraint(params, key_salt + self._backfill)
            # Drawn here in order of arrival: threads can overtake each other.
            seeds = [] if params.seed is not None else [self._seeds.getrandbits(SEED_BITS) for _ in range(count)]
            requests = await self.threads.run(prepare_all, num_chars)
            await self.next_round()
            generation = Generation(self.ready_supervisor(), tokenizer, self.metrics, requests, arrival)
            keep()
        self._keep(generation, size, account, body.deadline_ms)
        return generation

    def _checked(self, request: Request, body: GenerationBody) -> Request:
        if self.config.strict:
            check_fits(request, body.wanted_tokens, self.facts)
        check_logprobs(request, self.facts, self.config.limits)
        return msgspec.structs.replace(request, backfill=True) if self._backfill else request

    def _check_now(
        self, body: GenerationBody, params: SamplingParams, size: RequestSize, account: Account, now: float
    ) -> None:
        """Refuse an admitted request that cannot make its deadline, or whose key has used up its rates."""
        check_text_limits(params, self.config.limits)
        turns = account.turns_among(self.accounts.values()) if self._takes_turns and body.deadline_ms else None
        num_open = self.admission.num_open - size.sequences
        self._pace.check(body.deadline_ms, size.sequences, params.max_tokens, num_open, turns)
        account.request(now)

    def _keep(self, generation: Generation, size: RequestSize, account: Account, deadline_ms: int | None) -> None:
        """Count an open generation until it is closed; it is ended at its deadline."""
        self._generations.add(generation)
        account.opened(size.sequences, generation.prompt_tokens)
        timer = None
        if deadline_ms is not None:
            left = generation.arrival + deadline_ms / 1000 - time.monotonic()
            timer = asyncio.get_running_loop().call_later(left, generation.abort, missed(deadline_ms))
        generation.on_end = self._note_end
        generation.on_close = lambda: self._forget(generation, size, account, timer)

    def _note_end(self, tokens: int, seconds_generating: float) -> None:
        now, num_open = time.monotonic(), self.admission.num_open
        self._pace.end(now, tokens=tokens, seconds_generating=seconds_generating, num_open=num_open)

    async def _check_constraint(self, params: SamplingParams, client: str) -> None:
        """Refuse a constraint that cannot be compiled."""
        if params.structured_outputs is not None:
            tokenizer = self.need_tokenizer("structured_outputs")
            await self._grammars.check(params.structured_outputs, self.facts, lambda: tokenizer.vocabulary, client)

    def _forget(
        self, generation: Generation, size: RequestSize, account: Account, timer: asyncio.TimerHandle | None
    ) -> None:
        if timer is not None:
            timer.cancel()
        account.opened(-size.sequences, generation.completion_tokens)
        self._generations.discard(generation)
        self.admission.leave(size)

    def record(self, scope: Scope, request_id: str, began: float, status: int, generation: Generation) -> None:
        """A request that began at `began`, on `time.monotonic`, has been answered."""
        self.usage.record(request_id, began, status, generation)
        if self._traces is not None:
            self._traces.record(Headers(scope=scope), scope["path"], request_id, began, status, generation)

    # Shutdown

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for the open ones; whether all ended in time."""
        self.draining = True
        try:
            await asyncio.wait_for(self.admission.idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def abort_open(self) -> None:
        """End all open requests with an error to their clients, and all streams of `/live`."""
        self.draining = True
        self.live.close()
        for generation in list(self._generations):
            generation.abort(EngineClosedError("the server is shutting down"))

    def close(self) -> None:
        """Stop the threads and the process of grammars."""
        self.usage.close()
        if self._traces is not None:
            self._traces.close()
        self.threads.close()
        self._grammars.close()
