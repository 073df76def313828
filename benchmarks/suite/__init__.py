"""The benchmarks of `python -m benchmarks`, one per file. Each module is a `benchmarks.harness.Benchmark`."""
