"""What to train: a run's settings, and starting it on this machine."""
