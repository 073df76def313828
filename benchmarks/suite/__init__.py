"""The benchmarks of `python -m benchmarks`, one a file; each is a `benchmarks.harness.Benchmark`."""
