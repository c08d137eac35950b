"""MediaPipe as a detector of people and as an estimator of keypoints."""
