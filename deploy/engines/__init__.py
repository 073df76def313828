"""Runs clusters on Docker Compose and Ray, which place, restart and scale the processes."""
