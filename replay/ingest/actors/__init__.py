"""Ingest and the actors: their messages, sessions, credit and acknowledgements."""
