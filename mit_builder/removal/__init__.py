"""Taking videos out of a workspace for good, and rebuilding a dataset out of a manifest."""
