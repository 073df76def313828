"""The replay server, the learner and the evaluator: one process or group each, restarted by its own rules."""
