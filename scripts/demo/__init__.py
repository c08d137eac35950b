"""The parts of `scripts/build_demo.py`: voices, portraits, warps, scenes."""
