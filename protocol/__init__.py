"""What two processes must agree on: trajectories, batches, weights, spaces, frames and errors."""
