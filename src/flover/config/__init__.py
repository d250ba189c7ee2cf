"""All settings of Flover: name, type, default, unit and help text. Command-line flags are made from these fields.

Configurations are frozen: `EngineConfig` for an engine, `ServerConfig` for the HTTP server, `Limits` for the limits
of one request. Only `environment.py` reads the environment.
"""

from flover.config.engine import BUNDLED_MODEL, EngineConfig, one_engine
from flover.config.environment import Environment, keep_ray_quiet, read_environment, spin_briefly
from flover.config.keys import KeyLimits, read_keys
from flover.config.limits import Limits
from flover.config.server import ServerConfig
from flover.config.setting import flag_name, setting

__all__ = [
    "BUNDLED_MODEL",
    "EngineConfig",
    "Environment",
    "KeyLimits",
    "Limits",
    "ServerConfig",
    "flag_name",
    "keep_ray_quiet",
    "one_engine",
    "read_environment",
    "read_keys",
    "setting",
    "spin_briefly",
]
