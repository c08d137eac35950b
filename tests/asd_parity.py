"""Comparing a speaker network with the fixtures of ../shared/specs, whatever clips they hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

TOLERANCE = 1e-5
"""On logits and scores, absolute; on intermediate arrays, of their largest value (parity_recipe.md)."""


def spec_file(shared_dir: Path, name: str) -> Path:
    path = shared_dir / "specs" / name
    if not path.exists():
        pytest.skip(f"no {name} beside the checkout")
    return path


def real_weights(shared_dir: Path, name: str) -> Path:
    """A checkpoint below MIT_BUILDER_TEST_WEIGHTS, else below shared/weights."""
    folder = Path(os.environ.get("MIT_BUILDER_TEST_WEIGHTS") or shared_dir / "weights")
    if not (folder / name).exists():
        pytest.skip(f"no {name}: set MIT_BUILDER_TEST_WEIGHTS to its folder")
    return folder / name


def check_intermediates(
    ours: Mapping[str, npt.NDArray[np.float32]], theirs: Mapping[str, npt.NDArray], at: str
) -> None:
    """Every array of `ours` against `<at>/full/<name>`, stored whole or every eighth frame."""
    for name, array in ours.items():
        key = f"{at}/full/{name}"
        thinned = key + "_every8" in theirs
        wanted = theirs[key + "_every8" if thinned else key]
        limit = TOLERANCE if name == "logits" else TOLERANCE * np.abs(wanted).max()
        np.testing.assert_allclose(array[::8] if thinned else array, wanted, rtol=0, atol=limit, err_msg=key)


def check_scores(per_duration: npt.NDArray[np.float32], theirs: Mapping[str, npt.NDArray], at: str) -> None:
    """Scores at every duration, their mean, and the rounded mean except where it lies on a tie."""
    assert per_duration.dtype == np.float32
    np.testing.assert_allclose(per_duration, theirs[f"{at}/score_per_duration"], rtol=0, atol=TOLERANCE, err_msg=at)
    mean = per_duration.mean(axis=0)
    np.testing.assert_allclose(mean, theirs[f"{at}/score_mean"], rtol=0, atol=TOLERANCE, err_msg=at)
    differs = np.abs(np.round(mean, 1) - theirs[f"{at}/score_rounded"]) > 1e-6
    from_tie = np.abs(mean * 10 - np.floor(mean * 10) - 0.5) / 10
    assert (from_tie[differs] <= TOLERANCE).all(), at
