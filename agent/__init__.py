"""The network that actors run and the learner trains.

`agent.load(checkpoint)` gives a trained policy for inference; it is imported on first use, so that reading the agent's settings
does not load torch. The module behind it has another name: a submodule `agent.load` would take the function's place as soon as
anybody imported it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import oatmill  # noqa: F401  (checks first that Python finds our packages and not files of those names)

if TYPE_CHECKING:
    from agent.loading import LoadedAgent, load

__all__ = ["LoadedAgent", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from agent import loading  # noqa: PLC0415  (torch stays out until a checkpoint is wanted)

        return getattr(loading, name)
    raise AttributeError(f"module 'agent' has no attribute {name!r}")
