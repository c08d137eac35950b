"""Writes tests/models/data/asd_small.npz: what both speaker networks give for made-up weights and a made-up clip.

Run it only when the parity tests against the official outputs pass: the file stands in for them where those are absent.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from asd_clips import made_up_clip
from filled_weights import save_filled

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS / "models"))


def main() -> None:
    import test_lr_asd
    import test_talknet

    video, mfcc = made_up_clip(28)
    arrays: dict[str, np.ndarray] = {}
    for at, module in (("lr_asd", test_lr_asd), ("talknet", test_talknet)):
        with tempfile.TemporaryDirectory() as folder:
            network = module.load_network(save_filled(Path(folder) / "filled.model", module.shapes()))
        for name, array in module.intermediates(network, video, mfcc).items():
            whole = name == "logits" or name.startswith("stem")
            arrays[f"{at}/full/{name}" + ("" if whole else "_every8")] = array if whole else array[::8]
        scores = module.plain_scores(network, video, mfcc)
        mean = scores.mean(axis=0)
        arrays[f"{at}/score_per_duration"], arrays[f"{at}/score_mean"] = scores, mean
        arrays[f"{at}/score_rounded"] = np.round(mean, 1).astype(np.float64)
    np.savez_compressed(TESTS / "models" / "data" / "asd_small.npz", **arrays)


if __name__ == "__main__":
    main()
