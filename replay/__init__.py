"""The replay server: the processes ingest (queue, batches) and hub (control, weights, metrics). No torch."""
