"""What a person reads and types at a terminal: advice, wording, and who has the terminal. Imports nothing of ours."""
