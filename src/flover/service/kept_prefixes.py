"""`--kv-offload-persistent`: the host tier of an engine that stopped is that of the next one with the same model."""

from __future__ import annotations

import logging
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version

import msgspec

from flover.config import EngineConfig
from flover.engine.observer import Observer
from flover.engine.roster import Roster
from flover.memory.offload import PageStore
from flover.memory.offload_index import read_index, write_index
from flover.model.locate import locate_model
from flover.ops.cpu_isa import kernels_digest
from flover.request import ModelFacts

_NUMBERS = ("dtype", "quantization", "kv_cache_dtype", "load_format", "seed", "max_model_len")
"""Settings that change keys and values, or may."""
_SAMPLE = 2**20
"""Bytes at the beginning and the end of each model file that are hashed."""

logger = logging.getLogger(__name__)


class KeptPrefixes(Observer):
    """Restores the tier when it is attached, and writes down what is in it when the engine closes. `mark` is the
    `fingerprint`."""

    def __init__(self, store: PageStore, mark: bytes, vocab_size: int) -> None:
        self._store, self._mark, self._vocab_size = store, mark, vocab_size
        self._roster: Roster | None = None

    def attached(self, roster: Roster, born: float) -> None:
        """Before the first step."""
        self._roster = roster
        try:
            entries = read_index(self._store, self._mark, roster.config.page_size, self._vocab_size)
        except FileNotFoundError:
            self._store.empty()
        except (OSError, ValueError) as error:
            logger.warning("offloaded prefixes are not used: %s", error)
            self._store.empty()
        else:
            roster.prefix.restore(entries)
            logger.info("%d pages of prefixes are there from the run before", len(entries))

    def close(self) -> None:
        """Cached pages are stored too. Nothing is written where it is not known what the slots hold: while a plan is in
        flight, or after the tier was given up."""
        roster, self._roster = self._roster, None
        if roster is None or roster.in_flight or self._store.error is not None:
            return
        roster.pool.store_cached()
        try:
            self._store.apply(roster.prefix.tier.take_copies())
            if self._store.error is None:
                write_index(self._store, self._mark, roster.config.page_size, roster.prefix.tier.entries[::-1])
        except OSError as error:
            logger.warning("offloaded prefixes are not kept: %s", error)


def fingerprint(config: EngineConfig, facts: ModelFacts) -> bytes:
    """Of all that keys and values hang on: model files, settings, this version of Flover and its kernels. Of each file
    of the model it has the size, the time of its last change, and a hash of its beginning and end."""
    digest = blake2b(digest_size=32)
    try:
        digest.update(version("flover").encode())
    except PackageNotFoundError:
        digest.update(b"unknown")
    digest.update(kernels_digest())
    settings = [getattr(config, name) for name in _NUMBERS]
    sizeless = msgspec.structs.replace(facts, pool_tokens=0, num_slots=0)
    digest.update(msgspec.msgpack.encode([settings, sizeless]))
    path = locate_model(config.model, config.revision, config.download_dir)
    folder, begins = (path, "") if path.is_dir() else (path.parent, path.name.split("-0000")[0])  # or its parts
    for file in sorted(one for one in folder.iterdir() if one.name.startswith(begins) and one.is_file()):
        status = file.stat()
        digest.update(msgspec.msgpack.encode([file.name, status.st_size, status.st_mtime_ns]))
        with file.open("rb") as opened:
            digest.update(opened.read(_SAMPLE))
            opened.seek(max(0, status.st_size - _SAMPLE))
            digest.update(opened.read(_SAMPLE))
    return digest.digest()
