"""The queue of fresh trajectories, and the replay buffer with its snapshots."""
