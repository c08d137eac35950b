"""Sapiens as an estimator of keypoints: the paper's pose model."""
