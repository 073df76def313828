"""Train policies with many actors, and see what each loss does to the network.

    import oatmill

    result = oatmill.train("cartpole", {"trainer.total_timesteps": 100_000}, seed=1)
    policy = oatmill.load(result.run_dir)

`import oatmill` is fast: torch is loaded when something needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oatmill.errors import UserError
from oatmill.origin import check_packages
from oatmill.system import check_system

if TYPE_CHECKING:
    from recipes.python_api import load, train
    from runner.run import Run
    from runner.settings import RunSettings

__version__ = "0.1.0"
__all__ = ["Run", "RunSettings", "__version__", "load", "train"]

# Loaded by name: this package is below all others, and may import none of them.
_LAZY = {"train": "recipes.python_api", "load": "recipes.python_api", "Run": "runner.run", "RunSettings": "runner.settings"}

try:
    check_system()
    check_packages()
except UserError as error:
    raise ImportError(str(error)) from None


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'oatmill' has no attribute {name!r}")
