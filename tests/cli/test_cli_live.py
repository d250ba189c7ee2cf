"""The demo's board: states of a lane, the width as blocks, terminal and plain output; and the demo's workload."""

import io

import pytest
from rich.console import Console

from flover.bench.client import CHAT
from flover.cli.live import Board, Display, Lane, sparkline
from flover.cli.performance import OUTPUT_LENS, make_sends
from flover.cli.stories import make_stories


def board() -> Board:
    lanes = [Lane("chat", 10), Lane("text", 10, sent=True), Lane("chat", 10, True, 4), Lane("text", 10, True, 10, True)]
    return Board("A title", lanes, widths=[0.0, 2.0, 4.0], seconds=2.0)


def test_a_lane_goes_through_its_states() -> None:
    assert [lane.state for lane in board().lanes] == ["to come", "waiting", "generating", "done"]


@pytest.mark.parametrize(("values", "drawn"), [([0, 8, 4], "  █▄"), ([], "    "), ([0.1], "   ▁")])
def test_widths_as_blocks(values: list[float], drawn: str) -> None:
    assert sparkline(values, highest=8, num_columns=4) == drawn.rjust(4)


def test_only_the_last_widths_are_drawn_and_none_is_above_the_highest() -> None:
    assert sparkline([1, 1, 1, 99], highest=8, num_columns=2) == "▁█"


def test_elsewhere_than_on_a_terminal_there_are_plain_lines_now_and_then() -> None:
    out = io.StringIO()
    shown = board()
    with Display(shown, Console(file=out, width=40)) as refresh:
        for tick in range(60):
            shown.seconds = tick / 10
            refresh()
    lines = out.getvalue().splitlines()
    assert lines[0] == "A title"
    assert len(lines) == 1 + 3 + 1
    assert "\x1b" not in out.getvalue()
    assert "to come  1  waiting  1  generating  1  done  1  batch size  4.0  tokens 14" in lines[-1]


def test_on_a_terminal_every_lane_is_drawn() -> None:
    out = io.StringIO()
    with Display(board(), Console(file=out, width=100, force_terminal=True)) as refresh:
        refresh()
    for words in ("A title", "7 tok/s", "4/10", "10/10", "to come", "waiting"):
        assert words in out.getvalue()


def test_both_runs_of_the_demo_do_the_same_work_under_other_salts() -> None:
    fused, serial = (make_sends("m", 32, 24.0, seed=1, salt=salt) for salt in ("fused", "serial"))
    assert [send.body["max_tokens"] for send in fused] == [send.body["max_tokens"] for send in serial]
    for one, other in zip(fused, serial, strict=True):
        assert one.body | {"cache_salt": "serial"} == other.body
    assert all(OUTPUT_LENS.low <= send.body["max_tokens"] <= OUTPUT_LENS.high for send in fused)
    assert sum(send.path == CHAT for send in fused) == 16
    assert len({send.body["seed"] for send in fused}) == 32
    assert [send.at for send in fused] == sorted(send.at for send in fused)
    assert len({send.at for send in fused}) == 32


def test_stories_follow_the_seed() -> None:
    assert make_stories(3, 8) == make_stories(3, 8)
    assert make_stories(3, 8) != make_stories(4, 8)
    assert not any("{" in story.text for story in make_stories(5, 200))
