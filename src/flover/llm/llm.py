"""`LLM`: the engine in the caller's own process, prompts in and outputs out, under vLLM's names.

It knows the engine by three verbs (submit, step, cancel) and never sees a plan or a page.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from flover.config import BUNDLED_MODEL, EngineConfig, one_engine, spin_briefly
from flover.engine.stats import EngineStats
from flover.errors import ConfigError, EngineClosedError, RequestError
from flover.generation_config import default_params, read_sampling_defaults
from flover.heap import return_freed_memory
from flover.llm.adapters import NamedAdapters
from flover.llm.arguments import (
    check_kind,
    check_messages,
    check_priority,
    check_prompts,
    naming,
    one_each,
    params_each,
    render_all,
)
from flover.llm.batch import RunsRequests, run_batch
from flover.llm.outputs import OutputBuilder, RequestOutput
from flover.llm.settings import engine_settings
from flover.lora import LoRARequest
from flover.progress import GenerationBar, loading_bar
from flover.request import Request, SamplingParams
from flover.source import open_source
from flover.text.chat import ChatTemplate
from flover.text.prompts import Prompt, make_request, prompt_list, read_prompt
from flover.text.stream import text_start
from flover.text.streams import TextStreams
from flover.text.tokenizer import Tokenizer


class LLM:
    """A loaded model that generates for many prompts at once.

    `settings` are the fields of `EngineConfig`, by name; `target_itl_ms` is 0 unless given, because no client waits
    for single tokens here. An unknown name is a `TypeError`; a vLLM setting that Flover cannot honour is a
    `ConfigError`. One call of `generate` or `chat` runs at a time; others wait. Use it as a context manager, or call
    `close`, to free the memory.

    Raises `ModelError` if the model's files are missing, damaged or of an unknown kind.
    """

    def __init__(
        self,
        model: str | Path = BUNDLED_MODEL,
        *,
        tokenizer: str | Path | None = None,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        seed: int | None = None,
        max_model_len: int | None = None,
        **settings: Any,
    ) -> None:
        config = EngineConfig(
            model=str(model) if isinstance(model, Path) else model,
            tokenizer=str(tokenizer) if isinstance(tokenizer, Path) else tokenizer,
            skip_tokenizer_init=skip_tokenizer_init,
            dtype=dtype,
            seed=seed,
            max_model_len=max_model_len,
            **engine_settings({"target_itl_ms": 0.0} | settings),
        )
        one_engine(config)
        spin_briefly()
        from flover.model.locate import locate_model, locate_tokenizer
        from flover.service.build import build_engine  # imports torch, which `import flover` does not need

        path = locate_model(config.model, config.revision, config.download_dir, weights=config.load_format != "dummy")
        own = locate_tokenizer(config)
        loaded = None if own is None else Tokenizer.load(own)
        defaults = read_sampling_defaults(open_source(path))
        with loading_bar(config.model) as progress:
            engine = build_engine(config, progress, time.perf_counter)
        self._setup(
            engine,
            loaded,
            default_params(defaults, chat=False),
            default_params(defaults, chat=True),
            seed,
            config.scheduling_policy == "priority",
        )

    @classmethod
    def from_engine(
        cls,
        engine: RunsRequests,
        tokenizer: Tokenizer | None,
        *,
        defaults: SamplingParams | None = None,
        seed: int | None = None,
        by_priority: bool = False,
    ) -> Self:
        """An `LLM` over an engine that is already there; it takes over closing it."""
        llm = cls.__new__(cls)
        own = defaults or SamplingParams()
        llm._setup(engine, tokenizer, own, own, seed, by_priority)
        return llm

    def _setup(
        self,
        engine: RunsRequests,
        tokenizer: Tokenizer | None,
        defaults: SamplingParams,
        chat_defaults: SamplingParams,
        seed: int | None,
        by_priority: bool,
    ) -> None:
        self._engine: RunsRequests | None = engine
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._chat_defaults = chat_defaults
        self._seeds = random.Random(seed) if seed is not None else random.SystemRandom()
        self._by_priority = by_priority
        self._num_requests = 0
        self._adapters = NamedAdapters()
        self._lock = threading.Lock()

    # Generation

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Generate for one prompt or many; the outputs are in the order of the prompts.

        `sampling_params` and `lora_request` are one for all prompts or one each; by default what the model recommends,
        and no adapter (they need `enable_lora=True`). `use_tqdm` shows
        a progress bar when a batch takes long. All prompts are checked before the first is run: a `RequestError`
        names the prompt's index. Whatever interrupts the call also ends its requests in the engine.
        """
        check_prompts(prompts)
        check_priority(priority)
        return self._generate(
            prompt_list(prompts),
            sampling_params,
            lora_request,
            use_tqdm=use_tqdm,
            defaults=self._defaults,
            priority=priority,
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or many, rendered with the model's chat template or the one given.

        Without `sampling_params` an answer may fill the context, as on the server, unless the model recommends less.
        """
        check_messages(messages)
        check_kind("add_generation_prompt", add_generation_prompt, "true or false")
        check_kind("continue_final_message", continue_final_message, "true or false")
        check_kind("chat_template", chat_template, "a string", optional=True)
        check_kind("tools", tools, "a list", optional=True)
        check_kind("chat_template_kwargs", chat_template_kwargs, "a dictionary", optional=True)
        tokenizer = self.get_tokenizer()
        source = chat_template if chat_template is not None else tokenizer.chat_template
        if source is None:
            raise RequestError("the model has no chat template: pass one as chat_template", param="chat_template")
        render = partial(
            ChatTemplate(source, special_tokens=tokenizer.special_tokens).render,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            template_kwargs=chat_template_kwargs,
        )
        return self._generate(
            render_all(render, messages),
            sampling_params,
            lora_request,
            use_tqdm=use_tqdm,
            defaults=self._chat_defaults,
            add_special_tokens=False,
        )

    def _generate(
        self,
        prompts: Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None,
        *,
        use_tqdm: bool,
        defaults: SamplingParams,
        priority: int | Sequence[int] | None = None,
        add_special_tokens: bool = True,
    ) -> list[RequestOutput]:
        check_kind("use_tqdm", use_tqdm, "true or false")
        asked = sampling_params is not None
        all_params = params_each(sampling_params if asked else defaults, len(prompts))
        adapters = one_each("lora_request", lora_request, len(prompts))
        if priority is not None and not self._by_priority:
            raise RequestError("priority needs LLM(scheduling_policy='priority')", param="priority")
        priorities = one_each("priority", 0 if priority is None else priority, len(prompts))
        with self._lock:
            engine = self._running_engine()
            all_params = self._adapters.join(all_params, adapters)
            texts = TextStreams(self._tokenizer, engine.cancel)
            builders: list[OutputBuilder] = []
            for index, prompt in enumerate(prompts):
                with naming(index, len(prompts), "prompts"):
                    request, text = self._request(
                        prompt, all_params[index], asked, priorities[index], add_special_tokens
                    )
                    streams = texts.add(request, text_start(self._tokenizer, request.params, request.prompt_ids))
                builders.append(OutputBuilder(request, text, self._tokenizer, streams, time.perf_counter()))
            run_batch(engine, builders, texts, GenerationBar(enabled=use_tqdm, total=len(builders)))
        return [builder.output() for builder in builders]

    def _request(
        self, prompt: Prompt, params: SamplingParams, asked: bool, priority: int, add_special_tokens: bool
    ) -> tuple[Request, str | None]:
        """The request of a prompt, and the prompt's text if it has one. `asked` says that the caller gave `params`: a
        limit that only the model recommends is cut to what fits."""
        text, ids, salt = read_prompt(prompt)
        request = make_request(
            ids if ids is not None else text or "",
            params if asked else params.replace(max_tokens=None),
            request_id=str(self._num_requests),
            tokenizer=self._tokenizer,
            facts=self._running_engine().facts,
            draw_seed=lambda: self._seeds.getrandbits(63),
            add_special_tokens=add_special_tokens,
            priority=priority,
            salt=salt,
        )
        if not asked and params.max_tokens is not None:
            room = request.params.max_tokens or params.max_tokens
            fitting = request.params.replace(max_tokens=min(params.max_tokens, room))
            request = msgspec.structs.replace(request, params=fitting)
        self._num_requests += 1
        return request, text

    # Facts

    def stats(self) -> EngineStats:
        """Counters and gauges of the engine."""
        return self._running_engine().stats()

    get_metrics = stats

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises `ConfigError` if none was loaded."""
        if self._tokenizer is None:
            raise ConfigError("no tokenizer is loaded (skip_tokenizer_init=True)")
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What is used when `sampling_params` is None: the model's recommendation, vLLM's defaults for the rest."""
        return self._defaults

    @property
    def max_model_len(self) -> int:
        """Most tokens, prompt and output together, of one sequence."""
        return self._running_engine().facts.max_model_len

    def __repr__(self) -> str:
        if self._engine is None:
            return "LLM(closed)"
        facts = self._engine.facts
        return f"LLM(model={facts.model!r}, dtype={facts.dtype!r}, max_model_len={facts.max_model_len})"

    def reset_prefix_cache(self) -> None:
        """Forget all reusable prompt beginnings."""
        with self._lock:
            self._running_engine().reset_prefix_cache()

    # End

    def close(self) -> None:
        """Free the model, its key/value pool and its threads. Calling it twice is harmless."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
            del engine
            return_freed_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running_engine(self) -> RunsRequests:
        if self._engine is None:
            raise EngineClosedError("this LLM is closed")
        return self._engine
