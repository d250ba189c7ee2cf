"""`python -m flover` is the `flover` command."""

from flover.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
