"""Set before torch is imported anywhere: tests run two at a time on two cores, and never reach for the network."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("FLOVER_API_KEY", None)

from hypothesis import HealthCheck, settings

# How long a draw takes says something of the machine's other work, nothing of Flover.
settings.register_profile("flover", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("flover")
