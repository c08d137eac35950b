"""Settings: what they are, their defaults, and the options of yt-dlp that users may pass on."""
