"""The environment: read here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from flover.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What Flover takes from the environment."""

    api_keys: tuple[str, ...] | None = None
    """The keys in FLOVER_API_KEY, separated by blanks; none of them where it is set and empty, None where it is not."""
    hub_offline: bool = False
    hub_token: str | None = None
    ray_address: str | None = None

    @property
    def api_key(self) -> str | None:
        """The key that a client sends: the first."""
        return self.api_keys[0] if self.api_keys else None

    def server_keys(self) -> tuple[str, ...]:
        """The keys that a server asks for. Raises `ConfigError` where FLOVER_API_KEY is set and holds none: whoever
        sets it wants a key."""
        if self.api_keys == ():
            raise ConfigError("FLOVER_API_KEY is set and empty: give it a key, or unset it to serve without one")
        return self.api_keys or ()


def read_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """The one place that reads environment variables."""
    env = os.environ if environ is None else environ
    return Environment(
        api_keys=None if (keys := env.get("FLOVER_API_KEY")) is None else tuple(keys.split()),
        hub_offline=env.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"},
        hub_token=env.get("HF_TOKEN") or None,
        ray_address=env.get("RAY_ADDRESS") or None,
    )


def spin_briefly(environ: MutableMapping[str, str] | None = None) -> None:
    """Let compute threads that wait spin for some microseconds and then sleep, unless the environment has decided.

    OpenMP's threads spin for milliseconds by default, and starve the very threads that they wait for as soon as
    anything else wants the cores: an iteration then takes seconds. Sleeping at once costs a small model half its
    speed. Works only before torch is loaded; child processes inherit it.
    """
    env = os.environ if environ is None else environ
    if "OMP_WAIT_POLICY" not in env:
        env.setdefault("GOMP_SPINCOUNT", "20000")


def keep_ray_quiet(environ: MutableMapping[str, str] | None = None) -> None:
    """A Ray that Flover starts tells its makers nothing of how it is used, unless the environment wants it to."""
    env = os.environ if environ is None else environ
    env.setdefault("RAY_USAGE_STATS_ENABLED", "0")
