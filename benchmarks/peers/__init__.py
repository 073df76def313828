"""Runs other systems on the same tasks, each in its own Python environment; see setup.sh and __main__.py."""
