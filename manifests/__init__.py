"""The nouns: rows that flow between stages, the ledger that remembers them, and source lists."""
