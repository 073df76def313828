"""The durable log and the ledger."""
