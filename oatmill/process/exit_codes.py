"""The exit codes of all oatmill processes. Standard library only: the smallest processes import it too."""

from __future__ import annotations

DONE = 0
FAILED = 1
"""The run had started and failed."""
BAD_INPUT = 2
"""The user's request cannot be carried out. Restarting the process does not help."""
HUNG = 70
"""The process's own watchdog ended it."""
OUT_OF_MEMORY = 71
"""The process used more memory than its setting allows."""
INTERRUPTED = 130
"""Ctrl-C. The code is 128 plus the number of SIGINT, as in shells."""
