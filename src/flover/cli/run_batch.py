"""`flover run-batch`: a file of requests, each answered once, by a server of its own or one that runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flover.cli.flags import add_settings, count, from_args, given, to_flags
from flover.cli.models import add_model, resolve_model
from flover.cli.parser import Parser
from flover.config import EngineConfig, read_environment
from flover.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp

    from flover.server.batches.lines import Answer, BatchLine

MAX_CONCURRENCY = 128
MAX_TRIES, LONGEST_PAUSE = 10, 30.0
"""Of a request that the server has no room for, and seconds between two."""


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser(
        "run-batch",
        description="Answer the requests of a file in OpenAI's batch format. Answers are written as they come; a run "
        "that was cut short goes on where it stopped.",
    )
    add_model(parser)
    group = parser.add_argument_group("batch")
    group.add_argument("-i", "--input-file", type=Path, required=True, metavar="FILE", help="requests, one a line")
    group.add_argument("-o", "--output-file", type=Path, required=True, metavar="FILE", help="answers, one a line")
    group.add_argument("--base-url", metavar="URL", help="a server that runs (default: one is started for the batch)")
    group.add_argument(
        "--max-concurrency",
        type=count,
        default=MAX_CONCURRENCY,
        metavar="N",
        help="requests at the server at once (default: %(default)s)",
    )
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Answer all; 1 if a request failed."""
    todo, done = _read_files(args.input_file, args.output_file)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(args.output_file.open("ab"))
        if not todo:
            failed = 0
        elif args.base_url is not None:
            failed = _answer(todo, args.base_url, args.max_concurrency, output.write, output.flush)
        else:
            from flover.bench.server import ServerProcess

            resolve_model(args)
            from_args(args, EngineConfig)  # refuses what the server would refuse
            server = stack.enter_context(
                ServerProcess([*to_flags(EngineConfig, given(args, EngineConfig)), "--no-log-requests"])
            )
            failed = _answer(todo, server.url, args.max_concurrency, output.write, output.flush)
    again = f", {len(done)} were there" if done else ""
    print(f"{len(todo)} answered{again}, {failed} of them with an error: {args.output_file}")
    return 1 if failed else 0


def _read_files(given: Path, made: Path) -> tuple[list[BatchLine], set[str]]:
    """The requests that have no answer yet, and the ids of those that have. Raises `ConfigError`."""
    from flover.server.batches.lines import LineError, answered_ids, read_lines

    done: set[str] = set()
    try:
        with _open(given) as file:
            lines = [line for _, line in read_lines(file)]
    except LineError as error:
        raise ConfigError(f"{given}, {error}") from None
    if made.exists():
        try:
            with _open(made) as file:
                done, size = answered_ids(file)
        except LineError as error:
            raise ConfigError(f"{made}, {error}: name another file") from None
        os.truncate(made, size)  # the request of a line that was cut short is answered again
    return [line for line in lines if line.custom_id not in done], done


def _open(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _answer(
    todo: Sequence[BatchLine], url: str, concurrency: int, write: Callable[[bytes], Any], flush: Callable[[], None]
) -> int:
    """Answer these requests, as many at once as may be; how many failed."""
    from flover.server.batches.lines import write_answer

    failed = 0

    async def work(lines: Iterator[BatchLine], session: aiohttp.ClientSession, advance: Callable[[], None]) -> None:
        nonlocal failed
        for line in lines:
            answer = await _ask(session, url.rstrip("/") + line.url, bytes(line.body))
            failed += not answer.is_good
            write(write_answer(line.custom_id, answer, uuid.uuid4().hex))
            flush()
            advance()

    async def work_all() -> None:
        import aiohttp

        key = read_environment().api_key
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        timeout, lines = aiohttp.ClientTimeout(total=None), iter(todo)
        with _batch_bar(len(todo)) as advance:
            async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session, asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(todo))):
                    group.create_task(work(lines, session, advance))

    asyncio.run(work_all())
    return failed


async def _ask(session: aiohttp.ClientSession, url: str, body: bytes) -> Answer:
    """Send until the server has room."""
    import aiohttp

    from flover.server.batches.lines import Answer

    answer = Answer(0, None, "the server had no room for it")
    for tries in range(MAX_TRIES):
        try:
            async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                answer = Answer(response.status, await response.json(content_type=None))
                if response.status not in (429, 503):
                    return answer
                pause = float(response.headers.get("Retry-After", 2**tries))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(0, None, f"{type(error).__name__}: {error}")
        await asyncio.sleep(min(pause, LONGEST_PAUSE))
    return answer


@contextlib.contextmanager
def _batch_bar(total: int) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from flover.progress import make_progress

    columns = (TextColumn("Answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with make_progress(*columns) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
