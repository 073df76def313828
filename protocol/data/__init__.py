"""What travels: spaces, trajectories, batches, weights."""
