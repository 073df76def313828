"""The learner: losses in their order, the update, and what is measured of it."""
