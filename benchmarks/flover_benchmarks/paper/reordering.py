"""The cost of buffer reordering: the move of a row's columns, measured on the engine's buffers."""

from __future__ import annotations

from flover.bench.timing import best_mean
from flover.bench.workload import Lengths, fixed_arrivals
from flover.memory.buffers import RowBuffers
from flover.memory.columns import row_columns
from flover_benchmarks.paper import published
from flover_benchmarks.paper.bench import FUSION, Bench, Result, Table, number

SECONDS = 0.2


def cost(bench: Bench, max_model_len: int, num_rows: int) -> Result:
    """Microseconds and bytes of one move, times the number of moves with the widest spread of lengths (E5)."""
    columns = row_columns(-(-max_model_len // bench.page_size))
    buffers = RowBuffers(columns, num_rows)
    row_bytes = sum(buffers[column.name][0:1].nbytes for column in columns)
    seconds = best_mean(lambda: buffers.move([num_rows - 1], [0]), SECONDS)
    least = max(1, bench.scale.output_len * published.E6_LEAST_LEN // published.E6_OUTPUT_LEN)
    widest, num = max(published.E5_SPREADS), max(bench.scale.nums)
    jobs = bench.jobs(fixed_arrivals(num, published.E5_GAP_SHARE * bench.lone), Lengths(least, widest * least))
    outcome = bench.run(jobs, FUSION, "reordering")
    moves = outcome.row_moves
    step = outcome.seconds / outcome.iterations
    rows = (
        ("moves of rows", str(moves)),
        ("moves per finished request", f"{moves / num:.2f}"),
        ("one move, microseconds", f"{seconds * 1e6:.1f}"),
        ("reordering per finished request, microseconds", f"{moves * seconds * 1e6 / num:.1f}"),
        ("bytes moved per move (no keys or values)", f"{row_bytes:,}"),
        ("mean step, milliseconds", number(step * 1e3)),
        ("share of all steps", f"{moves * seconds / outcome.seconds:.4%}"),
    )
    return Result(
        "reordering",
        f"The cost of reordering, {bench.model}, {num} requests of {least} to {widest * least} tokens",
        (Table("Cost", ("", ""), rows),),
        facts={
            "moves": moves,
            "us_per_move": seconds * 1e6,
            "us_per_finished_request": moves * seconds * 1e6 / num,
            "bytes_per_move": row_bytes,
            "share_of_steps": moves * seconds / outcome.seconds,
        },
    )
