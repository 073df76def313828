"""Code that a checkpoint or a run's folder names is run only if the user trusts whoever made it.

See docs/decisions/020-a-checkpoint-is-data.md.
"""

from __future__ import annotations

from pathlib import Path

from oatmill.errors import UserError


def names_code(text: str) -> bool:
    """Whether a setting's text names code: `module:function`, or an id with the module that registers the environment.

    Any colon counts: what is refused without need costs the user a word, and what is let through may cost everything.
    """
    return ":" in text


def untrusted(source: Path, setting: str, text: str) -> UserError:
    """The refusal to run what a setting names.

    Args:
        source: the checkpoint or the run's folder.
        setting: its path, such as `env.factory`.
        text: its value.
    """
    return UserError(
        f"{source} names code to be imported and run, {setting}={text}; if you trust whoever made it, add --trust "
        "(in Python: trust=True)"
    )
