"""The replay role: ingest (queue and batches) and hub (control, weights, metrics), two processes without torch."""
