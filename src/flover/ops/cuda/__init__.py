"""The op table on one GPU: Triton kernels, and large products by torch.

Each file has one operation or a few like ones: the kernel, and the function that launches it. A result is a function of
its own token alone: a sum over a row or over keys has one order, and a product is fused with a sum only where the
source says so (`OPTIONS`).
"""

SPLIT = 256
"""Positions of a part of a context, whose keys have a softmax of their own (`attention.py`)."""
