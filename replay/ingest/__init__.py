"""The ingest process: trajectories in, batches out."""
