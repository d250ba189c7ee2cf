"""The command `flover`, also as `python -m flover`. Ctrl-C ends it quietly from here on: imports take long."""

import os

try:
    from flover.cli.interrupt import INTERRUPTED, end_at_once

    end_at_once()
    from flover.cli import main as command
except KeyboardInterrupt:
    os._exit(130)


def main() -> int:
    """Run the command of `sys.argv`; returns the exit code."""
    try:
        code = command.main()
        end_at_once()
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


if __name__ == "__main__":
    raise SystemExit(main())
