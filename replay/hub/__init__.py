"""The hub process: control, weights and metrics."""
