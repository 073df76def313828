"""The network that actors run and the learner trains.

`agent.load(checkpoint)` returns a trained policy for inference. It is imported on first use, so that
importing `agent.settings` does not load torch. Its module is called `agent.loading` because importing
a submodule `agent.load` would replace the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import oatmill  # noqa: F401  (raises if a user's file shadows one of our packages)

if TYPE_CHECKING:
    from agent.loading import LoadedAgent, load

__all__ = ["LoadedAgent", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from agent import loading  # noqa: PLC0415  (imports torch)

        return getattr(loading, name)
    raise AttributeError(f"module 'agent' has no attribute {name!r}")
