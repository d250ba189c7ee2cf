"""Set before torch is imported anywhere: tests run two at a time on two cores, and never reach for the network."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("FLOVER_API_KEY", None)
