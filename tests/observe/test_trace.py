"""The picture of a schedule: valid JSON, and the slices that a known schedule has."""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from simulation.simulator import Simulation
from support.toy import make_engine, request, run

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.errors import ConfigError
from flover.observe import background_writer
from flover.observe.background_writer import BackgroundWriter, Backlog
from flover.observe.record_reader import read_record
from flover.observe.trace import Trace, replay_path

Event = dict[str, Any]


def traced(engine: Engine, path: Path) -> Engine:
    trace = Trace(path)
    engine._clock = trace.clock(engine._clock)
    trace.attach(engine, EngineConfig())
    return engine


def slices(events: list[Event]) -> dict[str, list[tuple[str, float, float, str]]]:
    """By lane: name, begin and end in milliseconds, and why its sequence left. Every slice must have its end."""
    lanes = {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"} if events else {}
    found: dict[str, list[tuple[str, float, float, str]]] = defaultdict(list)
    open_now: dict[int, Event] = {}
    for one in events:
        if one["ph"] == "B":
            assert one["tid"] not in open_now, "one sequence sits in a row"
            open_now[one["tid"]] = one
        elif one["ph"] == "E":
            begun = open_now.pop(one["tid"])
            assert one["ts"] >= begun["ts"]
            left = one.get("args", {}).get("left", "")
            lane = lanes[one["tid"]]
            found[lane].append((begun["name"], round(begun["ts"] / 1e3, 6), round(one["ts"] / 1e3, 6), left))
    assert open_now == {}
    return found


def load(path: Path) -> list[Event]:
    events: list[Event] = json.loads(path.read_text())
    for one in events:
        one.setdefault("name", "")
    return events


def test_the_slices_of_a_known_schedule(tmp_path: Path) -> None:
    engine, _ = make_engine(rows=3)
    traced(engine, tmp_path / "t.json")
    engine.submit(request("a", 5, 2, first=100))
    engine.submit(request("b", 5, 4, first=200))
    run(engine)
    engine.close()
    events = load(tmp_path / "t.json")
    assert slices(events) == {
        "row 0": [
            ("pre-processing 0", 0, 1, ""),
            ("generating 0", 1, 2, "length"),
            ("generating 1", 2, 4, "length"),
        ],
        "row 1": [("pre-processing 1", 0, 1, ""), ("generating 1", 1, 2, "")],
    }, "b moves from row 1 into the hole that a leaves"
    iterations = [one for one in events if one["ph"] == "X"]
    assert [(one["ts"], one["dur"], one["args"]["generating"]) for one in iterations] == [
        (0, 1000, 0),
        (1000, 1000, 2),
        (2000, 1000, 1),
        (3000, 1000, 1),
    ]
    counters = defaultdict(list)
    for one in events:
        if one["ph"] == "C":
            counters[one["name"]].append(one["args"])
    assert counters["rows"] == [
        {"generating": 0, "pre-processing": 2},
        {"generating": 2, "pre-processing": 0},
        {"generating": 1, "pre-processing": 0},
    ]
    assert [one["used"] for one in counters["pages"]] == [4, 2, 0]
    assert counters["queue"] == [{"waiting": 0}]


@pytest.mark.parametrize("seed", range(14))
def test_any_schedule_makes_slices_that_close(seed: int, tmp_path: Path) -> None:
    simulation = Simulation(seed, steps=150)
    traced(simulation.engine, tmp_path / "t.json")
    simulation.run()
    events = load(tmp_path / "t.json")
    lanes = slices(events)
    entered = sum(
        counted == "pre-processing" for lane in lanes.values() for (name, *_) in lane for counted in [name[:14]]
    )
    assert entered > 0
    times = [one["ts"] for one in events if "ts" in one and one["ph"] in "BE"]
    assert times == sorted(times)


def test_a_picture_that_was_never_finished_lacks_only_its_end(tmp_path: Path) -> None:
    engine, _ = make_engine(rows=3)
    traced(engine, tmp_path / "t.json")
    engine.submit(request("a", 5, 9))
    for _ in range(3):
        engine.step()
    deadline = threading.Event()
    for _ in range(100):
        deadline.wait(background_writer.WRITE_SECONDS / 4)
        text = (tmp_path / "t.json").read_text()
        recorded = replay_path(tmp_path / "t.json").read_text()
        if text.count('"ph":"X"') == 3 and recorded.count("\n") == 4:
            break
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    events = json.loads(text + "\n]")
    assert [one["name"] for one in events if one["ph"] == "B"] == ["pre-processing 0", "generating 0"]
    assert len(read_record(replay_path(tmp_path / "t.json")).steps) == 3
    engine.close()


def test_the_picture_has_no_prompt_and_the_record_is_for_its_owner_alone(tmp_path: Path) -> None:
    engine, _ = make_engine()
    traced(engine, tmp_path / "t.json")
    engine.submit(request("a", 5, 2, first=7654))
    run(engine)
    engine.close()
    assert "7654" not in (tmp_path / "t.json").read_text()
    record = replay_path(tmp_path / "t.json")
    assert record.name == "t.json.replay"
    assert "7654" in record.read_text()
    assert record.stat().st_mode & 0o077 == 0


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--trace"):
        Trace(tmp_path / "missing" / "t.json")


class Numbers:
    """Ten digits for every number that is put."""

    def __init__(self) -> None:
        self.backlog: Backlog[int] = Backlog()

    def read(self) -> bytes:
        return b"".join(b"%010d" % number for number in self.backlog.take(3))

    def end(self) -> bytes:
        return b"end"


def test_a_slow_disk_ends_the_file_and_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()
    write = os.write

    def slow(file: int, data: bytes) -> int:
        going.wait(10)
        return write(file, data[:7])

    monkeypatch.setattr(os, "write", slow)
    monkeypatch.setattr(background_writer, "MAX_WAITING_STEPS", 8)
    one, numbers = BackgroundWriter(tmp_path / "f", "--trace"), Numbers()
    one.start(numbers)
    for number in range(50):
        numbers.backlog.put(number)
    assert numbers.backlog.full
    going.set()
    one.close()
    numbers.backlog.put(50)
    one.close()
    written = (tmp_path / "f").read_bytes()
    count = len(written) // 10
    assert written == b"".join(b"%010d" % number for number in range(count)) + b"end", "no gaps"
    assert 8 <= count <= 11


def test_a_full_disk_ends_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    one, numbers = BackgroundWriter(tmp_path / "f", "--trace"), Numbers()
    one.start(numbers)
    numbers.backlog.put(1)
    one.close()
    assert "ends here: No space left on device" in caplog.text
