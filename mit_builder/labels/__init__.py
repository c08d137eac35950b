"""What is said of people: tracks, keypoints, who speaks, and what reviewers correct."""
