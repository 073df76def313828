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
USER_CODE_FAILED = 72
"""The user's code in a process of a run, such as an environment, raised an exception, broke a promise or ended the process.
Another process would most likely fail the same way."""
RANK_STOPPED = 75
"""A learner rank ended because another rank was asked to stop, while the run goes on. Start all ranks again."""
INTERRUPTED = 130
"""Ctrl-C. The code is 128 plus the number of SIGINT, as in shells."""
