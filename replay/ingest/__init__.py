"""The ingest process: it receives trajectories from actors and sends batches to the learner."""
