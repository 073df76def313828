"""Files of a run folder: atomic writes, events and endpoints."""
