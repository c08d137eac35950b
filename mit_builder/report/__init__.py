"""What people look at: contact sheets, overlays, the dataset card and its statistics."""
