"""The published numbers of the Flover paper (arXiv:2305.13484, both versions) and of its release.

Times in seconds unless a name says otherwise. GPT-J is the 6B model on one A100.
"""

from __future__ import annotations

NUMS = (1, 2, 4, 8, 16, 32)
GAP_SHARE = {"GPT-J": 0.5 / 5.6, "13B": 0.5 / 9.1, "33B": 0.5 / 13.6, "65B": 0.5 / 10.8}
"""E1: the interval of 500 ms as a share of a lone request's time."""
E1_SPEEDUP = {
    "GPT-J": (1.0, 1.8, 2.4, 3.5, 5.9, 10.9),
    "13B": (1.0, 1.6, 2.5, 3.5, 6.0, 11.7),
    "33B": (1.0, 1.8, 2.7, 3.5, 6.5, 13.4),
    "65B": (1.0, 1.9, 3.0, 3.9, 7.5, 16.7),
}
"""E1: overall latency of FasterTransformer over Flover's, by number of requests."""
E1_SECONDS = {
    "GPT-J": (5.6, 6.1, 7.1, 9.2, 13.2, 21.2),
    "13B": (9.1, 9.6, 10.6, 12.7, 16.9, 24.9),
    "33B": (13.6, 14.1, 15.6, 17.7, 21.9, 30.3),
    "65B": (10.8, 11.4, 12.5, 14.4, 18.7, 27.2),
}
E1_LATENCY_RATIO = {"GPT-J": {8: 1.03, 16: 1.04, 32: 1.05}, "65B": {8: 1.01, 16: 1.05, 32: 1.13}}
"""E1: mean latency of a request over a lone one's."""

E2_WINDOW_SHARES = (2 / 9.1, 4 / 9.1, 8 / 9.1, 16 / 9.1)
"""E2: windows of dynamic batching as shares of a lone request's time (13B)."""
E2_FLOVER_END, E2_WINDOW_16_END, E2_LONE = 26.5, 32.2, 9.1

E3_GAPS_MS = (20, 50, 100, 150, 200, 300, 400, 500, 750, 1000, 2000, 3000, 4000, 5000)
"""E3: mean gaps of Poisson arrivals; 32 requests of 512 iterations."""
E3_ITERATIONS = (557, 616, 748, 888, 911, 1174, 1366, 1537, 2239, 2621, 5483, 7738, 8902, 10694)
E3_OVERLAP = (29.2, 26.2, 21.5, 19.9, 19.3, 14.5, 11.7, 9.9, 7.4, 6.4, 3.0, 2.1, 1.8, 1.5)
E3_SPEEDUP = (11.2, 11.1, 10.2, 9.3, 9.1, 7.9, 7.1, 6.5, 4.5, 4.2, 2.1, 1.3, 1.3, 1.1)
E3_LONE = 5.8
E3_OUTPUT_LEN = 512
E3_COST_MS = ((1, 11.3), (6, 13.0), (29, 22.0))
"""E3: milliseconds of an iteration by requests that overlap, read off the paper's charts."""

E4_GAP_SHARES = (0.5 / 5.57, 2.5 / 5.57, 5.0 / 5.57)
E4_SECONDS = {
    # (interval, samples per request): FasterTransformer and Flover, for 1..8 requests
    (0, 1): (
        (5.99, 10.57, 15.09, 18.26, 22.01, 25.97, 29.92, 34.36),
        (5.57, 6.28, 6.96, 7.66, 8.36, 9.01, 9.60, 10.24),
    ),
    (0, 2): (
        (6.08, 10.57, 15.15, 18.36, 22.46, 26.50, 30.43, 34.96),
        (5.59, 6.36, 7.07, 7.83, 8.50, 9.19, 9.86, 10.47),
    ),
    (0, 4): (
        (6.12, 10.80, 15.40, 18.69, 22.63, 27.07, 31.09, 35.74),
        (5.68, 6.55, 7.50, 8.37, 9.17, 10.12, 10.88, 11.69),
    ),
    (1, 1): (
        (6.05, 10.69, 15.58, 20.10, 23.99, 28.26, 32.28, 36.40),
        (5.54, 8.35, 10.93, 13.44, 16.02, 18.56, 20.99, 23.48),
    ),
    (1, 2): (
        (6.00, 10.87, 15.42, 20.28, 24.30, 28.46, 32.74, 36.92),
        (5.57, 8.41, 11.01, 13.55, 16.05, 18.56, 21.08, 23.60),
    ),
    (1, 4): (
        (6.08, 11.06, 15.89, 20.47, 24.77, 29.06, 33.25, 37.61),
        (5.67, 8.60, 11.23, 13.73, 16.29, 18.78, 21.30, 23.75),
    ),
    (2, 1): (
        (5.96, 11.30, 16.66, 21.87, 26.94, 32.17, 37.13, 42.19),
        (5.54, 10.65, 15.71, 20.69, 25.70, 30.69, 35.89, 40.72),
    ),
    (2, 2): (
        (6.00, 11.52, 16.71, 22.06, 27.07, 32.24, 37.28, 42.39),
        (5.58, 10.70, 15.70, 20.72, 25.72, 30.74, 35.75, 40.76),
    ),
    (2, 4): (
        (6.05, 11.66, 16.92, 22.22, 27.36, 32.57, 37.50, 42.71),
        (5.67, 10.85, 15.87, 20.94, 25.88, 30.87, 35.91, 40.89),
    ),
}
E4_NUMS = (1, 2, 4, 8)

E5_GAP_SHARE = 0.02 / 5.6
E5_SPREADS = {2: (10.7, 1.15), 3: (8.7, 1.29), 4: (8.1, 1.44), 6: (6.8, 1.73)}
"""E5: longest length over the least (128), 32 requests, 20 ms apart: speedup and gain by reordering."""
E6_GAP_SHARE = 0.5 / 9.1
E6_SPREADS = {4: (8.0, 1.15), 8: (12.6, 1.19), 12: (12.8, 1.21), 16: (13.3, 1.23)}
"""E6: likewise 500 ms apart (13B): speedup and gain by reordering."""
E6_OUTPUT_LEN, E6_LEAST_LEN = 512, 128

E7_GAP_SHARE = E5_GAP_SHARE
"""E7: 20 ms; the model is not named."""
E7_LEAST_LEN = 128
E7_SECONDS = {
    # (ranks, longest length, requests): without reordering and with it
    (2, 1000, 16): (20.94, 14.33),
    (2, 1000, 32): (40.86, 25.62),
    (2, 1000, 48): (57.32, 34.39),
    (4, 2400, 16): (79.94, 34.21),
    (4, 2400, 32): (138.06, 55.93),
    (4, 2400, 48): (166.56, 79.79),
    (4, 3840, 16): (145.96, 49.12),
    (4, 5120, 16): (214.58, 68.50),
    (4, 7200, 16): (311.81, 94.49),
}
"""E7: tensor parallel, lengths between 128 and the longest (first version of the paper, on one node)."""
