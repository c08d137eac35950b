"""How windows of 32 ms become frames of 40 ms."""

from __future__ import annotations

import numpy as np

from mit_builder.models.silero_voice import per_frame


def test_frames_take_the_mean_of_the_windows_that_they_overlap() -> None:
    np.testing.assert_allclose(per_frame(np.array([0, 1, 0, 0, 1.0]), 4), [0.2, 0.6, 0, 0.8], atol=1e-6)
