"""Constraints are tried out in a process of their own: what it dies of is refused, and what comes after is answered."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest
from support.constraints import VOCABULARY
from support.facts import model_facts

from flover.errors import OutOfResourcesError, RequestError
from flover.service import grammar_check
from flover.service.grammar_check import GrammarCheck
from flover.structured_outputs import StructuredOutputsParams

PROCESS = "flover.service.grammar_process"
FACTS = model_facts(vocab_size=len(VOCABULARY.tokens), eos_ids=[1])
DEEP = 4000
"""Rules that refer to each other in a chain: the stack of a main thread is too small for them."""
KILLERS: dict[str, dict[str, Any]] = {
    "alternatives": {"regex": "(a+)+b" + "|" * 900},
    "parentheses": {"regex": "(" * 500 + ")" * 500},
    "repetitions": {"regex": "((((a{1,999}){1,999}){1,999}){1,999}){1,999}"},
    "any distance": {"regex": "(.*a.{0,200}){20}.*(a|b){500}.*c.{300}"},
    "a long enum": {"json": {"enum": [str(number) for number in range(8000)]}},
    "a circle": {"json": {"$ref": "#/a", "a": {"$ref": "#/a"}}},
    "itself": {"json": {"$ref": "#"}},
    "all of itself": {"json": {"allOf": [{"$ref": "#"}, {"type": "object"}]}},
    "one of many": {"json": {"oneOf": [{"pattern": f"{number}.*{number}"} for number in range(600)]}},
    "all of many": {"json": {"allOf": [{"pattern": f"[a-z]{{{number}}}.*x"} for number in range(1, 600)]}},
    "a long text": {"json": {"type": "string", "minLength": 10**6, "maxLength": 10**8}},
    "an endless text": {"json": {"type": "string", "minLength": 10**9, "maxLength": 10**18}},
    "a long list": {"json": {"items": {"items": {}}, "minItems": 10**6, "maxItems": 10**9}},
    "properties": {"json": {"properties": {f"p{number}": {"type": "string"} for number in range(1200)}}},
    "a chain of rules": {
        "grammar": "\n".join(["start: r0", *(f"r{n}: r{n + 1}" for n in range(DEEP)), f'r{DEEP}: "a"'])
    },
    "left and right": {"grammar": 'start: s\ns: s s s | s s | "a" | s "b" | '},
    "open brackets": {"grammar": "start: " + "(" * 30_000},
    "negations": {"grammar": "start: A\nA: " + "~(" * 10_000 + '"a"' + ")" * 10_000},
    "an open rule": {"grammar": "root ::= " + "[" * 30_000},
    "no end": {"grammar": 'start: "a" start'},
}


def run(scenario: Callable[[GrammarCheck], Awaitable[None]], *command: str) -> None:
    async def checked() -> None:
        check = GrammarCheck(command) if command else GrammarCheck()
        try:
            await scenario(check)
        finally:
            check.close()

    asyncio.run(asyncio.wait_for(checked(), 120))


async def verdict(check: GrammarCheck, **fields: Any) -> str | None:
    try:
        await check.check(StructuredOutputsParams(**fields), FACTS, lambda: VOCABULARY)
    except RequestError as error:
        assert error.param == "structured_outputs"
        return error.message
    return None


def test_hostile_constraints_get_a_verdict_and_nobody_else_is_held_up() -> None:
    async def scenario(check: GrammarCheck) -> None:
        lags: list[float] = []

        async def watch() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                lags.append(time.perf_counter() - before)

        watching = asyncio.create_task(watch())
        own = psutil.Process()
        assert await verdict(check, choice=["a"]) is None
        memory, before = own.memory_info().rss, time.perf_counter()
        found = {name: await verdict(check, **fields) for name, fields in KILLERS.items()}
        assert time.perf_counter() - before < 60
        assert own.memory_info().rss - memory < 2**24
        assert await verdict(check, choice=["b"]) is None
        watching.cancel()
        assert sorted(lags)[-3] < 0.5  # the loop was never held up for as long as a constraint takes
        refused = {name for name, message in found.items() if message is not None}
        assert {"parentheses", "a circle", "itself", "open brackets", "negations", "an open rule"} <= refused
        assert "2 s of processor time" in (found["all of many"] or "")
        assert not refused & {"properties", "a long text", "a chain of rules"}

    run(scenario)


def test_one_verdict_for_all_that_ask_the_same() -> None:
    async def scenario(check: GrammarCheck) -> None:
        asked = [asyncio.create_task(verdict(check, regex="(")) for _ in range(20)]
        await asyncio.sleep(0)
        asked.pop().cancel()  # a client that leaves
        found = await asyncio.gather(*asked)
        assert len(set(found)) == 1
        assert "invalid regex" in (found[0] or "")
        assert len([one for one in psutil.Process().children() if PROCESS in one.cmdline()]) == 1

    run(scenario)


def test_what_nobody_waits_for_is_not_compiled() -> None:
    """Clients that send what takes long, and leave."""

    async def scenario(check: GrammarCheck) -> None:
        assert await verdict(check, choice=["a"]) is None
        for number in range(12):
            asking = asyncio.create_task(verdict(check, json=KILLERS["all of many"]["json"] | {"title": str(number)}))
            await asyncio.sleep(0.001)
            asking.cancel()
        began = time.perf_counter()
        assert await verdict(check, choice=["b"]) is None
        assert time.perf_counter() - began < 10
        assert not check._asking

    run(scenario)


def test_many_constraints_of_one_client_cost_another_one_turn() -> None:
    async def scenario(check: GrammarCheck) -> None:
        ends: list[str] = []

        async def ask(client: str, number: int) -> None:
            params = StructuredOutputsParams(choice=[f"{client}{number}"])
            await check.check(params, FACTS, lambda: VOCABULARY, client)
            ends.append(f"{client}{number}")

        asked = [asyncio.create_task(ask("flood", number)) for number in range(6)]
        await asyncio.sleep(0)
        others = [asyncio.create_task(ask(client, number)) for number in (0, 1) for client in ("a", "b")]
        await asyncio.sleep(0)
        asked.pop(2).cancel()
        await asyncio.gather(*asked, *others)
        assert ends == ["flood0", "flood1", "a0", "b0", "flood3", "a1", "b1", "flood4", "flood5"]
        assert not check._turns._held and not check._turns._waiting

    run(scenario)


DIES = f"import sys; from {PROCESS} import *; import flover.service.grammar_process as p; "


@pytest.mark.parametrize(
    "how",
    [
        "p._verdict = lambda *_: os.abort()",
        "p._verdict = lambda *_: 5",
    ],
    ids=["crash", "nonsense"],
)
def test_a_constraint_that_ends_the_process_is_refused_and_the_next_is_not(how: str) -> None:
    async def scenario(check: GrammarCheck) -> None:
        message = await verdict(check, choice=["a"])
        assert message == "structured_outputs.choice cannot be compiled in 2 s of processor time and 1024 MiB of memory"
        assert await verdict(check, choice=["a"]) == message  # known, not tried again
        check._command = grammar_check.COMMAND
        assert await verdict(check, choice=["b"]) is None

    run(scenario, sys.executable, "-c", f"{DIES}{how}; sys.exit(main(sys.argv))")


def test_a_process_that_something_else_has_ended_costs_no_constraint() -> None:
    async def scenario(check: GrammarCheck) -> None:
        assert await verdict(check, choice=["a"]) is None
        (process,) = [one for one in psutil.Process().children() if PROCESS in one.cmdline()]
        process.kill()
        assert await verdict(check, choice=["b"]) is None

    run(scenario)


SILENT = "import time; time.sleep(100)"


def test_a_process_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_check, "PATIENCE_SECONDS", 0.2)

    async def scenario(check: GrammarCheck) -> None:
        with pytest.raises(OutOfResourcesError, match=r"were not compiled in 0\.2 s"):
            await verdict(check, choice=["a"])
        assert not [one for one in psutil.Process().children() if SILENT in one.cmdline()]

    run(scenario, sys.executable, "-c", SILENT)
