"""Writes a trained policy as a file that runs without oatmill."""
