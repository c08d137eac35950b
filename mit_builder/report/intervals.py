"""Shares with 95 % intervals, for figures from a random sample.

Clips are drawn, so clips are independent; frames and people of one clip are not. The share of right labels is
therefore a ratio of sums over clips, its variance is that of a ratio estimator over clips (linearised, Cochran 1977,
section 6), and Wilson's interval is taken at the number of independent labels that would have this variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""Quantile of the normal distribution for 95 % on two sides."""


@dataclass(frozen=True)
class Share:
    """A share and its 95 % interval."""

    share: float
    low: float
    high: float


def wilson(n_right: float, n: float) -> Share:
    """Wilson's score interval of `n_right` out of `n` > 0 independent trials; `n` need not be whole."""
    share = n_right / n
    square = Z_95**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = Z_95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return Share(share, max(0.0, centre - half), min(1.0, centre + half))


def clustered(right: Sequence[int], totals: Sequence[int]) -> Share:
    """Share of right labels over clips, each with `right` of `totals`.

    Where clips do not tell how much they differ (one clip, or all alike) each counts as one label: the widest interval.
    """
    n_clips, n_labels = len(totals), sum(totals)
    share = sum(right) / n_labels
    n = float(n_clips)
    if n_clips > 1:
        squares = sum((y - share * m) ** 2 for y, m in zip(right, totals, strict=True))
        variance = n_clips / (n_clips - 1) * squares / n_labels**2
        if variance > 0:
            n = min(float(n_labels), max(n, share * (1 - share) / variance))
    return wilson(share * n, n)
