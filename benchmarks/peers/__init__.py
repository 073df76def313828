"""Other systems at the same task, each in an environment of its own; see setup.sh and __main__.py."""
