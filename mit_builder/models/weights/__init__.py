"""Weights of models: which there are, where they are kept, and how they are fetched and checked."""
