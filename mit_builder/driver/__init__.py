"""A run: what is due, what is given to workers, what is counted and told."""
