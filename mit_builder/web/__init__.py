"""Fetching from the web through yt-dlp: its options, its errors, and what it may not reach or fill."""
