"""Everything about actors in ingest: their messages, sessions, credit and acknowledgements."""
