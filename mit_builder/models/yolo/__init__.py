"""Ultralytics' YOLO as a detector of people, and its checkpoints read without running anything in them."""
