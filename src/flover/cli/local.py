"""A model in this process for `flover generate` and `flover chat`: prompts in, a stream of text pieces out."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import TracebackType

from flover.config import EngineConfig, one_engine
from flover.errors import ConfigError, EngineError, ModelError
from flover.llm.batch import deferred_interrupt
from flover.model.locate import locate_model
from flover.request import FinishReason, SamplingParams
from flover.service.build import build_engine
from flover.text.chat import ChatTemplate
from flover.text.prompts import make_request
from flover.text.stream import TextPiece, TextStream, text_start
from flover.text.tokenizer import Tokenizer


class LocalModel:
    """An engine and its tokenizer. Use as a context manager. Raises `ModelError` and `ConfigError`."""

    def __init__(self, config: EngineConfig, progress: Callable[[int, int], None]) -> None:
        one_engine(config)
        if config.skip_tokenizer_init:
            raise ConfigError("--skip-tokenizer-init: this command reads and writes text, which needs a tokenizer")
        self.tokenizer = Tokenizer.load(
            locate_model(config.tokenizer or config.model, config.revision, config.download_dir, weights=False)
        )
        self._engine = build_engine(config, progress)
        self._ids = itertools.count()
        self._seeds = random.Random(config.seed)

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()

    def generate(
        self, prompts: Sequence[str], params: SamplingParams, *, add_special_tokens: bool = True
    ) -> Iterator[tuple[int, int, TextPiece]]:
        """Generate for all prompts at once; yields (prompt index, sequence index, piece).

        Closing the iterator early cancels running sequences. Raises `RequestError` before anything is generated,
        `EngineError` if a sequence fails.
        """
        requests = [
            make_request(
                prompt,
                params,
                request_id=str(next(self._ids)),
                tokenizer=self.tokenizer,
                facts=self._engine.facts,
                draw_seed=lambda: self._seeds.getrandbits(63),
                add_special_tokens=add_special_tokens,
            )
            for prompt in prompts
        ]
        streams: dict[tuple[str, int], tuple[int, TextStream]] = {}
        for place, request in enumerate(requests):
            self._engine.submit(request)
            start = text_start(self.tokenizer, request.params, request.prompt_ids)
            for index in range(params.n):
                streams[request.id, index] = (place, TextStream(self.tokenizer, request.params, start))
        try:
            yield from self._follow(streams)
        finally:
            for request_id, index in streams:
                self._engine.cancel(request_id, index)
            while self._engine.has_work:
                self._engine.step()

    def _follow(self, streams: dict[tuple[str, int], tuple[int, TextStream]]) -> Iterator[tuple[int, int, TextPiece]]:
        """Step until every stream has ended; ended streams are removed from `streams`."""
        while streams:
            for delta in self._engine.step():
                if (delta.request_id, delta.index) not in streams:
                    continue
                place, stream = streams[delta.request_id, delta.index]
                piece = stream.feed(delta)
                if piece.cancel:
                    self._engine.cancel(delta.request_id, delta.index)
                if piece.finish_reason is not None:
                    del streams[delta.request_id, delta.index]
                if piece.finish_reason == FinishReason.ERROR:
                    raise EngineError(delta.error or "the engine failed on this request")
                yield place, delta.index, piece

    def chat(
        self, messages: Sequence[Mapping[str, str]], params: SamplingParams
    ) -> Generator[tuple[str, int], None, None]:
        """The answer to a conversation, in pieces: text and number of tokens. Ctrl-C takes effect between iterations.

        Raises `ModelError` if the model has no chat template.
        """
        if self.tokenizer.chat_template is None:
            raise ModelError("the model has no chat template; use flover generate")
        template = ChatTemplate(self.tokenizer.chat_template, special_tokens=self.tokenizer.special_tokens)
        prompt = template.render(list(messages))
        with deferred_interrupt() as interrupted:
            for _, _, piece in self.generate([prompt], params, add_special_tokens=False):
                yield piece.text, len(piece.token_ids)
                if interrupted.is_set():
                    raise KeyboardInterrupt
