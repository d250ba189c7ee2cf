"""A Ray cluster of two nodes on this machine, a core each, and what runs in it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rank_processes import ENGINE, FOLLOWER, processes

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}
RELAY = "flover.ray.engine"


class Nodes:
    """The cluster. Its processes, and those that Ray starts in it, are descendants of this one."""

    def __init__(self, temp_dir: str) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": temp_dir})
        self.address = self._cluster.address
        self.second = self.add()

    def add(self) -> Any:
        """One more node."""
        return self._cluster.add_node(**NODE)

    def kill(self, node: Any) -> None:
        """A node goes all of a sudden."""
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """All that Ray writes goes to a directory of its own: what else runs on the machine is not touched. The paths of
    sockets have to be short, so it is not pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="flray"))
    settings = {**QUIET, "RAY_TMPDIR": str(folder)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    (folder / "ray").mkdir()
    nodes = Nodes(str(folder / "ray"))
    try:
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def wait_for_nobody(modules: tuple[str, ...] = (ENGINE, FOLLOWER, RELAY), seconds: float = 10.0) -> None:
    """No process of an engine is left."""
    deadline = time.monotonic() + seconds
    while left := [process for module in modules for process in processes(module)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
