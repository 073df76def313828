"""One run: its settings, folder, result and observer."""
