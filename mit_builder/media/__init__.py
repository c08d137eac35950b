"""Reading and writing footage on the clip timeline (25 frames a second, 16 kHz mono)."""
