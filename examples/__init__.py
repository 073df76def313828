"""Worked examples of what users bring along; each is explained in docs/ and run by a test."""
