"""Playing and recording episodes with a checkpoint."""
