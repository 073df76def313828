"""Messages, their encoding, reasons for rejection and deadlines."""
