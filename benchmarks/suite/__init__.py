"""The benchmarks of `python -m benchmarks`, one per file; each is a `benchmarks.harness.Benchmark`."""
