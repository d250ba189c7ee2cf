"""Structured outputs on one device: constraints compiled once, the state of each row, masks beside the forward."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flover.engine.plan import Work
from flover.errors import InvariantError, RequestError
from flover.grammar.masks import MaskThread, start_deep_thread
from flover.memory.columns import Array
from flover.request import ModelFacts
from flover.structured_outputs import FIELD, StructuredOutputsParams, Vocabulary

if TYPE_CHECKING:
    from flover.grammar.compiler import Compiler
    from flover.grammar.state import GrammarState


class DeviceGrammars:
    """What the first constrained request makes: until then there is no compiler and no thread."""

    def __init__(self, facts: ModelFacts) -> None:
        self._facts = facts
        self._lock = threading.Lock()
        self._compiler: Compiler | None = None
        self._masks = MaskThread()

    def prepare(self, params: StructuredOutputsParams, vocabulary: Vocabulary | None) -> Callable[[], None] | None:
        """What has to be done before a request with this constraint is queued, in any thread but the loop's; None if
        nothing. Raises `RequestError`, and so does what is returned."""
        if self._compiler is not None and self._compiler.has(params):
            return None
        if vocabulary is None and self._compiler is None:
            raise RequestError(f"{FIELD} need a tokenizer, and none is loaded", param=FIELD)
        return partial(self._compile, params, vocabulary)

    def state(self, params: StructuredOutputsParams, output_ids: Sequence[int]) -> GrammarState:
        """The state of a row that takes a sequence with these outputs."""
        if self._compiler is None:
            raise InvariantError("a request with structured outputs was not prepared")
        return self._compiler.state(params, output_ids)

    def start(self, work: Sequence[Work], states: Array) -> None:
        """Begin to make the masks of the rows that sample; `states` is the column of their states."""
        if self._compiler is not None:
            found = (states[one.row] for one in work if one.num_samples)
            self._masks.start([state for state in found if state is not None])

    def finish(self) -> None:
        """Wait for the masks."""
        self._masks.finish()

    def make(self, work: Sequence[Work], states: Array) -> None:
        """Make the masks of rows that sample once more, and wait for them."""
        self.start(work, states)
        self.finish()

    def close(self) -> None:
        """End the thread of masks."""
        self._masks.close()

    def _compile(self, params: StructuredOutputsParams, vocabulary: Vocabulary | None) -> None:
        failed: list[RequestError] = []

        def compile_here() -> None:
            try:
                self._compiler_for(vocabulary).prepare(params)
            except RequestError as error:
                failed.append(error)
            except BaseException as error:  # a panic of llguidance is no Exception
                failed.append(RequestError(f"{FIELD} cannot be compiled: {type(error).__name__}", param=FIELD))

        start_deep_thread(compile_here, "grammars").join()
        if failed:
            raise failed[0]

    def _compiler_for(self, vocabulary: Vocabulary | None) -> Compiler:
        with self._lock:
            if self._compiler is None:
                assert vocabulary is not None  # else `prepare` has refused the request
                from flover.grammar.compiler import Compiler  # loads llguidance

                self._compiler = Compiler(vocabulary, self._facts.vocab_size, self._facts.eos_ids)
            return self._compiler
