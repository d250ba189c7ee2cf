"""The demo's live display: a line for each request and the batch size over time.

On a terminal it is redrawn in place; to a file or pipe it prints a summary line at intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

REDRAWS_PER_SECOND = 6
PLAIN_LINE_SECONDS = 2.0
_BLOCKS = " ▁▂▃▄▅▆▇█"
_BAR = 16
_COLUMNS = 2
_STATES = {"to come": "dim", "waiting": "yellow", "generating": "cyan", "done": "green"}


@dataclass(slots=True)
class Lane:
    """One request: its kind, length and progress."""

    kind: str
    num_wanted: int
    sent: bool = False
    num_tokens: int = 0
    done: bool = False

    @property
    def state(self) -> str:
        """One of `to come`, `waiting` (queued or pre-processing its prompt), `generating`, `done`."""
        if self.done:
            return "done"
        if self.num_tokens:
            return "generating"
        return "waiting" if self.sent else "to come"


@dataclass(slots=True)
class Board:
    """All requests of one run and the samples of the batch size, oldest first. Seconds are since the run's start."""

    title: str
    lanes: list[Lane]
    widths: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, state: str) -> int:
        """Number of requests in a state."""
        return sum(lane.state == state for lane in self.lanes)

    @property
    def num_tokens(self) -> int:
        """Total tokens of all requests so far."""
        return sum(lane.num_tokens for lane in self.lanes)

    @property
    def plain_line(self) -> str:
        """The progress of the run in one line without colours."""
        counts = "  ".join(f"{state} {self.count(state):2d}" for state in _STATES)
        width = f"{self.widths[-1]:4.1f}" if self.widths else "   -"
        return f"  {self.seconds:5.1f} s  {counts}  batch size {width}  tokens {self.num_tokens}"

    def draw(self) -> RenderableType:
        """The display: a headline, the batch size over time, and the requests in two columns."""
        rate = self.num_tokens / self.seconds if self.seconds else 0.0
        head = Text.assemble(
            (self.title, "bold"), f"   {self.seconds:4.1f} s   {self.num_tokens:,} tokens   {rate:,.0f} tok/s"
        )
        width = Text.assemble(
            "batch size ", (sparkline(self.widths, len(self.lanes), 48), "magenta"), f" {_last(self.widths)}"
        )
        grid = Table.grid(padding=(0, 3))
        num_rows = -(-len(self.lanes) // _COLUMNS)
        for index in range(num_rows):
            numbers = range(index, len(self.lanes), num_rows)
            grid.add_row(*(_draw_lane(number, self.lanes[number]) for number in numbers))
        return Group(head, width, grid)


def sparkline(values: list[float], highest: float, num_columns: int) -> str:
    """The last `num_columns` values as blocks; `highest` fills a cell, and values above 0 are visible."""
    steps = len(_BLOCKS) - 1
    heights = [min(steps, max(1 if value > 0 else 0, round(steps * value / highest))) for value in values]
    return "".join(_BLOCKS[height] for height in heights[-num_columns:]).rjust(num_columns)


class Display:
    """Shows a board during a run; call `refresh` often. Use as a context manager."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._console = console
        self._live: Live | None = None
        self._next_line = 0.0

    def __enter__(self) -> Callable[[], None]:
        if self._console.is_terminal:
            self._live = Live(self._board.draw(), console=self._console, auto_refresh=False)
            self._live.start()
        else:
            self._print(self._board.title)
        return self.refresh

    def __exit__(self, *unused: object) -> None:
        if self._live is not None:
            self._live.update(self._board.draw(), refresh=True)
            self._live.stop()
        else:
            self._print(self._board.plain_line)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def refresh(self) -> None:
        """Redraw, or print a line if the interval has passed."""
        if self._live is not None:
            self._live.update(self._board.draw(), refresh=True)
        elif self._board.seconds >= self._next_line:
            self._next_line = self._board.seconds + PLAIN_LINE_SECONDS
            self._print(self._board.plain_line)


def _draw_lane(number: int, lane: Lane) -> Text:
    filled = round(_BAR * lane.num_tokens / lane.num_wanted)
    style = _STATES[lane.state]
    return Text.assemble(
        f"{number + 1:2d} {lane.kind:4s} ",
        ("━" * filled, style),
        ("─" * (_BAR - filled), "dim"),
        (f" {lane.num_tokens:3d}/{lane.num_wanted}" if lane.num_tokens else f" {lane.state:8s}", style),
    )


def _last(widths: list[float]) -> str:
    return f"{widths[-1]:.1f}" if widths else "-"
