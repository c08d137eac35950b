"""The published dataset: its index and shards, how it is written, read, checked and trained on."""
