"""Every setting of Flover, once: name, type, default, unit and meaning. The command line is made from these fields.

Configurations are frozen and sit side by side: `EngineConfig` for whoever runs an engine, `ServerConfig` for the
server in front of it, `Limits` for what one client may cost. The environment is read in `environment.py` alone.
"""

from flover.config.engine import BUNDLED_MODEL, EngineConfig, one_engine
from flover.config.environment import Environment, keep_ray_quiet, read_environment, spin_briefly
from flover.config.limits import Limits
from flover.config.server import ServerConfig
from flover.config.setting import flag_name, setting

__all__ = [
    "BUNDLED_MODEL",
    "EngineConfig",
    "Environment",
    "Limits",
    "ServerConfig",
    "flag_name",
    "keep_ray_quiet",
    "one_engine",
    "read_environment",
    "setting",
    "spin_briefly",
]
