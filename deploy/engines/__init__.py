"""Runs a cluster's processes on Docker Compose or Ray."""
