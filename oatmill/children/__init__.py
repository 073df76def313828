"""Child processes that run a user's code, and how they are ended."""
