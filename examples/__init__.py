"""Examples of user code; each is explained in a tutorial and run by a test."""
