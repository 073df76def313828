"""Encoders of MettaGrid's tokens."""
