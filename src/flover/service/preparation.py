"""Requests that the engine has to prepare something for (a grammar to compile, an adapter to read): in a thread of
their own, so that neither the loop nor a request that came later waits for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from flover.engine.loop import Engine
from flover.engine.queue import Cancel
from flover.errors import RequestError
from flover.request import Request, SamplingParams
from flover.structured_outputs import StructuredOutputsParams, Vocabulary

logger = logging.getLogger(__name__)


class Preparation:
    """`submit` gets each request when it is prepared, or with the error that it cannot be; `cancel` what was cancelled
    meanwhile. Both are called in the thread."""

    def __init__(
        self, submit: Callable[[Request, RequestError | None], None], cancel: Callable[[Cancel], None]
    ) -> None:
        self._submit = submit
        self._cancel = cancel
        self._lock = threading.Lock()
        self._held: dict[str, list[Cancel]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="preparation")  # starts no thread before its first work

    def put(self, request: Request, work: Callable[[], None]) -> None:
        """Do this work, then submit the request."""
        with self._lock:
            self._held[request.id] = []
        self._pool.submit(self._run, request, work)

    def holds(self, cancel: Cancel) -> bool:
        """Whether the request is being prepared; then it is cancelled as soon as it has been submitted."""
        with self._lock:
            held = self._held.get(cancel.request_id)
            if held is not None:
                held.append(cancel)
            return held is not None

    def close(self) -> None:
        """Submit nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, request: Request, work: Callable[[], None]) -> None:
        error = None
        try:
            work()
        except RequestError as found:
            error = found
        except Exception as found:
            logger.error("a request cannot be prepared", exc_info=found)
            error = RequestError(f"the request cannot be prepared: {type(found).__name__}")
        self._submit(request, error)
        with self._lock:
            cancels = self._held.pop(request.id, ())
        for cancel in cancels:
            self._cancel(cancel)


def prepare_vocabulary(engine: Engine, vocabulary: Vocabulary) -> bool:
    """Make what structured outputs need of a vocabulary, as a request that has them does; whether that is done."""
    params = SamplingParams(structured_outputs=StructuredOutputsParams(json_object=True))
    try:
        work = engine.prepare(Request(id="", prompt_ids=[0], params=params, seed=0), vocabulary)
        if work is not None:
            work()
    except RequestError as error:
        logger.warning("structured outputs are not prepared: %s", error.message)
        return False
    return True
