"""The true server in front of the toy engine: `serve_toy.py '{"engine": {...}, "server": {...}}' [toy options]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flover.config import EngineConfig, Limits, ServerConfig
from flover.server.run import serve

TOY = Path(__file__).parent / "toy_engine.py"


def main() -> int:
    settings = json.loads(sys.argv[1])
    own = {"port": 0, **settings["server"]}
    server = ServerConfig(**own | {"limits": Limits(**own.get("limits", {}))})
    return serve(EngineConfig(**settings["engine"]), server, engine_command=(sys.executable, str(TOY), *sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
