"""The data that processes exchange: spaces, trajectories, batches, weights."""
