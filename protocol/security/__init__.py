"""Keys, their owners, and the handler that decides who may connect."""
