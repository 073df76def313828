"""The replay queue and the replay buffer."""
