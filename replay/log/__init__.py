"""The log of every change in ingest, and the ledger."""
