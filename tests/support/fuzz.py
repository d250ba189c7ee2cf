"""Inputs made of good ones by chance: what reads them must refuse them in its own words, in time, or take them."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CASES = Path(__file__).parents[1] / "fuzz" / "cases"
"""Inputs that were once too much, by target; tried first."""
NUMBERS = [0, 1, 2, 3, 7, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
VALUES: list[Any] = [*NUMBERS, -1, 1.5, 1e308, True, None, "", "a", "\0", "\udc80", "é" * 300, [], [[]], {}, {"a": 1}]
MAX_BYTES = 2**20


class Fuzzer:
    """Random inputs from a seed: `count` of them, or for so many seconds."""

    def __init__(self, seed: int, seconds: float, count: int) -> None:
        self._seed = seed
        self._seconds = seconds
        self._count = count

    def run(
        self,
        name: str,
        seeds: Sequence[bytes],
        check: Callable[[bytes], None],
        *,
        limit: float,
        mutate: Callable[[random.Random, bytes], bytes] | None = None,
    ) -> int:
        """Check the cases that are kept for `name`, then inputs made of these and of `seeds`; the number of inputs.
        What `check` raises fails, and so does what takes more than `limit` seconds; that input is then kept."""
        kept = [path.read_bytes() for path in sorted((CASES / name).glob("*"))]
        rng = random.Random(self._seed)
        deadline = time.monotonic() + self._seconds
        number = 0
        for data in [*seeds, *kept]:
            self._try(name, data, check, limit)
        while time.monotonic() < deadline if self._seconds else number < self._count:
            data = rng.choice([*seeds, *kept])
            for _ in range(rng.choice([1, 1, 2, 4, 16])):
                change = mutate if mutate is not None and rng.random() < 0.5 else mutate_bytes
                data = change(rng, data)[:MAX_BYTES]
            self._try(name, data, check, limit)
            number += 1
        sys.stdout.write(f"{name}: {number} inputs, seed {self._seed}\n")
        return number

    def _try(self, name: str, data: bytes, check: Callable[[bytes], None], limit: float) -> None:
        began = time.monotonic()
        problem: BaseException | None = None
        try:
            check(data)
        except Exception as error:
            problem = error
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            problem = error
        took = time.monotonic() - began
        if problem is None and took <= limit:
            return
        path = CASES / name / hashlib.sha256(data).hexdigest()[:12]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        said = f"took {took:.1f} s" if problem is None else f"{type(problem).__name__}: {problem}"
        raise AssertionError(f"{name}, seed {self._seed}: {said}; kept as {path}") from problem


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """One change of bytes."""
    place = rng.randrange(len(data) + 1)
    end = min(len(data), place + rng.choice([1, 1, 4, 8, 64]))
    match rng.randrange(6):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + data[end:]
        case 2:
            return data[:place] + data[place:end] * rng.choice([2, 3, 100]) + data[end:]
        case 3:
            number = rng.choice(NUMBERS).to_bytes(8, "little")[: rng.choice([1, 2, 4, 8])]
            return data[:place] + number + data[place + len(number) :]
        case 4:
            return data[:place] + rng.randbytes(end - place) + data[end:]
    other = rng.randrange(len(data) + 1)
    return data[:place] + data[other : other + end - place] + data[place:]


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """One change of a value, a name or a list in a JSON text; other bytes stay as they are."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        inside = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, item in list(inside)[:50]:
            places.append((one, key))
            waiting.append(item)
    if not places:
        return data
    holder, key = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del holder[key]
        case 1:
            other, name = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[name])) if name in other or isinstance(other, list) else None
        case 2 if isinstance(holder, dict):
            holder[rng.choice(["", "a", "type", "\0"])] = holder.pop(key)
        case _:
            holder[key] = rng.choice(VALUES)
    return json.dumps(value).encode()
