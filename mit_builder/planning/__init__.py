"""Before a run: what it will take, and what other thresholds would keep."""
