"""Draws the live feed in a terminal: rows over iterations, a colour for each sequence.

0 aaaaaaaaaAAAAAAAAAAAAAAAAAAccCCCCCC     without colours a letter is a sequence: lower case while its prompt is
1 bbbbBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB     computed, upper case while it generates
"""

from __future__ import annotations

import colorsys
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from string import ascii_lowercase

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from flover.cli.follow import LiveEvent, LiveFacts
from flover.cli.live import sparkline
from flover.engine.stats import EngineStats
from flover.observe.timeline import Iteration

KEPT = 1024
"""Iterations kept: more than a terminal has columns."""
RATE_SECONDS = 2.0
LIVE = "live"
"""State while connected; other states are reasons why not."""
_LABEL = 9
_SCALE = 8
"""Columns at the right for the scale of a strip."""
_OTHER_LINES = 14
"""Lines of the screen that are not rows."""
_GENERATING, _PREPROCESSING, _HELD, _DEAD, _MOVED = "█", "▒", "─", "·", "↑"
_GOLDEN_ANGLE = 137.508 / 360


@dataclass(frozen=True, slots=True)
class Shares:
    """An iteration's milliseconds by kind of work, in proportion to the tokens of each kind."""

    preprocessing: float
    generation: float
    dead: float

    @classmethod
    def of(cls, iteration: Iteration) -> Shares:
        chunk_tokens = sum(tokens for _, tokens in iteration.chunks)
        dead = sum(number < 0 for number in iteration.rows)
        generating = len(iteration.generating)
        unit = iteration.milliseconds / max(1, chunk_tokens + dead + generating)
        return cls(unit * chunk_tokens, unit * generating, unit * dead)


@dataclass(slots=True)
class TopView:
    """State of a server and its rendering. `now` is in seconds of a monotonic clock."""

    address: str
    state: str = "connecting"
    facts: LiveFacts | None = None
    stats: EngineStats | None = None
    iterations: deque[Iteration] = field(default_factory=lambda: deque(maxlen=KEPT))
    _readings: deque[tuple[float, int]] = field(default_factory=deque)

    def take(self, event: LiveEvent, now: float) -> None:
        """Take one event of the feed."""
        if event.facts is not None:
            self.facts, self.state = event.facts, LIVE
            self._readings.clear()
        for iteration in event.iterations:
            if self.iterations and iteration.step <= self.iterations[-1].step:
                self.iterations.clear()  # another engine counts from 0 again
            self.iterations.append(iteration)
        if event.stats is not None:
            self.stats = event.stats
            self._readings.append((now, event.stats.generation_tokens))

    def rate(self, now: float) -> float:
        """Generated tokens per second over the last `RATE_SECONDS`; 0 without events."""
        while len(self._readings) > 1 and self._readings[1][0] < now - RATE_SECONDS:
            self._readings.popleft()
        if len(self._readings) < 2 or self._readings[-1][0] < now - RATE_SECONDS:
            return 0.0
        (since, before), (_, after) = self._readings[0], self._readings[-1]
        return (after - before) / max(0.05, now - since)

    def draw(self, width: int, height: int, now: float, *, colours: bool = True) -> RenderableType:
        """The screen in so many columns and lines."""
        head = Text.assemble(("flover top", "bold"), f"  {self.address}  ", (self._model, "bold"), f"  {self.state}")
        lines = [head, *self._gauges(now), Text()]
        shown = list(self.iterations)[-max(1, width - _LABEL - _SCALE) :]
        if shown:
            lines += [*_lanes(shown, max(1, height - _OTHER_LINES), colours), Text(), *_strips(shown), _legend(colours)]
        else:
            lines += [Text("No request is running. Try:"), Text(f"  {self._command}", style="cyan", no_wrap=False)]
        return Group(*lines)

    @property
    def _model(self) -> str:
        return self.facts.model if self.facts else ""

    @property
    def _command(self) -> str:
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 200})
        return f"curl {self.address}/v1/completions -H 'Content-Type: application/json' -d '{body}'"

    def _gauges(self, now: float) -> list[Text]:
        stats = self.stats
        if stats is None or self.facts is None:
            return [Text(), Text(), Text()]
        if self.state != LIVE:
            return [Text("no reading: the server does not answer"), Text(), Text()]
        size, rate = (stats.generating, self.rate(now)) if stats.running else (0, 0.0)
        mean = stats.iteration_rows / stats.iterations if stats.iterations else 0.0
        free = stats.pages_total - stats.pages_used - stats.pages_cached
        first = (
            f"{rate:,.0f} tok/s   batch size {size} of {self.facts.max_num_seqs} rows, mean {mean:.1f}   "
            f"queue {stats.waiting}   iteration {stats.step_ms:.1f} ms"
        )
        second = (
            f"pages {stats.pages_used:,} used, {stats.pages_cached:,} cached, {free:,} free   "
            f"preemptions {stats.preemptions:,}   row moves {stats.row_moves:,}"
            + (f"   proposals {stats.accepted_tokens:,} of {stats.draft_tokens:,} right" if stats.draft_tokens else "")
        )
        return [Text(first), Text(second), Text(f"finished {_finished(stats.finished)}")]


@dataclass(frozen=True, slots=True)
class TopScreen:
    """A `TopView` as a renderable of rich, as large as the terminal."""

    view: TopView
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        colours = console.color_system is not None
        return [self.view.draw(options.max_width, options.height or console.height, self.now, colours=colours)]


def _finished(counts: Mapping[str, int]) -> str:
    """Finished sequences by finish reason, the most frequent first."""
    reasons = sorted(((count, reason) for reason, count in counts.items() if count), reverse=True)
    how = ", ".join(f"{reason} {count:,}" for count, reason in reasons)
    return f"{sum(counts.values()):,}" + (f" ({how})" if how else "")


def cell(iteration: Iteration, row: int) -> tuple[str, int]:
    """The sign of row `row` in an iteration and its sequence; a blank if it was outside the window."""
    if not 0 <= row - iteration.first < len(iteration.rows):
        return " ", -1
    number = iteration.rows[row - iteration.first]
    if number < 0:
        return _DEAD, -1
    if any(move.dst == row for move in iteration.moves):
        return _MOVED, number
    if any(chunk == row for chunk, _ in iteration.chunks):
        return _PREPROCESSING, number
    return (_GENERATING if row in iteration.generating else _HELD), number


def colour(sequence: int) -> str:
    """A sequence's colour; hues of consecutive numbers are a golden angle apart."""
    red, green, blue = colorsys.hls_to_rgb((0.6 + sequence * _GOLDEN_ANGLE) % 1.0, 0.6, 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def letter(sign: str, sequence: int) -> str:
    """A cell without colours: the sequence's letter, upper case while it generates."""
    name = ascii_lowercase[sequence % len(ascii_lowercase)]
    return {_GENERATING: name.upper(), _PREPROCESSING: name, _HELD: "-", _DEAD: ".", _MOVED: "^"}.get(sign, sign)


def _lanes(shown: list[Iteration], max_rows: int, colours: bool) -> list[Text]:
    num_rows = max(iteration.first + len(iteration.rows) for iteration in shown)
    lines = [_lane(shown, row, colours) for row in range(min(num_rows, max_rows))]
    if num_rows > max_rows:
        lines[-1] = Text(f"{'':{_LABEL}}and {num_rows - max_rows + 1} more rows", style="dim")
    return lines


def _lane(shown: list[Iteration], row: int, colours: bool) -> Text:
    line = Text(f"{row:{_LABEL - 1}d} ", style="", no_wrap=True)
    for (sign, sequence), same in groupby(cell(iteration, row) for iteration in shown):
        count = len(list(same))
        if not colours:
            line.append(letter(sign, sequence) * count)
        elif sequence < 0:
            line.append(sign * count, "bright_black")
        else:
            line.append(sign * count, f"reverse {colour(sequence)}" if sign == _MOVED else colour(sequence))
    return line


def _strips(shown: list[Iteration]) -> list[Text]:
    """One line each for batch size, queue, the two kinds of work and pages, aligned with the rows above; at the end the
    value of the highest block."""
    shares = [Shares.of(iteration) for iteration in shown]
    slowest = max(iteration.milliseconds for iteration in shown)
    kinds = (
        ("width", [float(len(one.generating)) for one in shown], "blue", None),
        ("queue", [float(one.waiting) for one in shown], "magenta", None),
        ("gen. ms", [one.generation for one in shares], "blue", slowest),
        ("pre. ms", [one.preprocessing for one in shares], "yellow", slowest),
        ("pages", [float(one.pages_used) for one in shown], "green", None),
    )
    lines = []
    for name, values, style, highest in kinds:
        top = highest or max(values) or 1.0
        blocks = sparkline(values, top, len(values))
        scale = f" ≤ {top:.3g}" if top < 100 else f" ≤ {top:.0f}"
        lines.append(Text.assemble(f"{name:>{_LABEL - 1}} ", (blocks, style), (scale, "bright_black"), no_wrap=True))
    return lines


def _legend(colours: bool) -> Text:
    signs = [
        (_GENERATING, "generating"),
        (_PREPROCESSING, "pre-processing"),
        (_HELD, "held"),
        (_DEAD, "dead"),
        (_MOVED, "moved"),
    ]
    shown = "  ".join(f"{sign if colours else letter(sign, 0)} {meaning}" for sign, meaning in signs)
    return Text(f"{shown}  ms by share of tokens", style="bright_black", no_wrap=True, overflow="ellipsis")
