"""A model in this process for `flover generate` and `flover chat`: prompts in, a stream of text pieces out."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import TracebackType

from flover.config import EngineConfig, one_engine
from flover.errors import ConfigError, EngineError, ModelError
from flover.llm.batch import run_requests
from flover.model.locate import locate_model
from flover.request import FinishReason, SamplingParams
from flover.service.build import build_engine
from flover.text.chat import ChatTemplate
from flover.text.prompts import make_request
from flover.text.stream import TextPiece, text_start
from flover.text.streams import TextStreams
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
        texts = TextStreams(self.tokenizer, self._engine.cancel)
        for request in requests:
            texts.add(request, text_start(self.tokenizer, request.params, request.prompt_ids))
        numbers = {request.id: number for number, request in enumerate(requests)}
        with contextlib.closing(run_requests(self._engine, requests, texts)) as iterations:
            for deltas in iterations:
                for delta, piece in deltas:
                    if piece.finish_reason == FinishReason.ERROR:
                        raise EngineError(delta.error or "the engine failed on this request")
                    yield numbers[delta.request_id], delta.index, piece

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
        for _, _, piece in self.generate([prompt], params, add_special_tokens=False):
            yield piece.text, len(piece.token_ids)
