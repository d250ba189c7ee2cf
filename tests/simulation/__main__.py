"""Replays seeds: `python -m tests.simulation 1234` prints the events of one run; `--hash 0 50` prints trace hashes."""

from __future__ import annotations

import argparse
import sys

from .simulator import RunFailed, Simulation, simulate


def say(*values: object) -> None:
    """One line on the standard output."""
    sys.stdout.write(" ".join(map(str, values)) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this seed and print its history")
    parser.add_argument("--steps", type=int, default=1000, help="iterations during which requests arrive")
    parser.add_argument("--hash", type=int, nargs=2, metavar=("FIRST", "END"), help="print 'seed hash' for a range")
    arguments = parser.parse_args()
    if arguments.hash is not None:
        for seed in range(*arguments.hash):
            say(seed, simulate(seed, arguments.steps).trace_hash)
        return 0
    if arguments.seed is None:
        parser.error("a seed or --hash is needed")
    return replay(arguments.seed, arguments.steps)


def replay(seed: int, steps: int) -> int:
    """Run one seed and print what happened; 1 if a law was broken."""
    simulation = Simulation(seed, steps)
    try:
        outcome = simulation.run()
    except RunFailed as failure:
        say(failure)
        return 1
    say(simulation.history.render())
    say(f"seed {outcome.seed} ({outcome.flavour}) keeps the laws; trace {outcome.trace_hash}")
    say(simulation.scenario.config)
    say(dict(sorted(outcome.counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
