"""Everything about the learner in ingest: cutting batches, the ranks that get them, and checkpoints."""
