"""Environment variables; no other file reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from flover.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The environment variables that Flover uses."""

    api_keys: tuple[str, ...] | None = None
    """The keys in FLOVER_API_KEY, separated by blanks; empty if it is set without a key, None if it is not set."""
    ray_address: str | None = None

    @property
    def api_key(self) -> str | None:
        """The key that a client sends: the first."""
        return self.api_keys[0] if self.api_keys else None

    def server_keys(self) -> tuple[str, ...]:
        """The keys that a server accepts. Raises `ConfigError` if FLOVER_API_KEY is set without a key: the operator
        meant to require one."""
        if self.api_keys == ():
            raise ConfigError("FLOVER_API_KEY is set and empty: give it a key, or unset it to serve without one")
        return self.api_keys or ()


def read_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Read the variables, from `os.environ` by default."""
    env = os.environ if environ is None else environ
    return Environment(
        api_keys=None if (keys := env.get("FLOVER_API_KEY")) is None else tuple(keys.split()),
        ray_address=env.get("RAY_ADDRESS") or None,
    )


def spin_briefly(environ: MutableMapping[str, str] | None = None) -> None:
    """Let waiting OpenMP threads spin for some microseconds and then sleep, unless OMP_WAIT_POLICY is set.

    By default they spin for milliseconds and, on busy cores, starve the threads that they wait for: an iteration then
    takes seconds. Sleeping at once halves the speed of a small model. Call it before torch is loaded; child processes
    inherit it.
    """
    env = os.environ if environ is None else environ
    if "OMP_WAIT_POLICY" not in env:
        env.setdefault("GOMP_SPINCOUNT", "20000")


def keep_ray_quiet(environ: MutableMapping[str, str] | None = None) -> None:
    """Switch Ray's usage statistics off, unless the environment sets them."""
    env = os.environ if environ is None else environ
    env.setdefault("RAY_USAGE_STATS_ENABLED", "0")
