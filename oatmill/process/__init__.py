"""What every process of a run needs: signals, watchdog, HTTP, metrics."""
