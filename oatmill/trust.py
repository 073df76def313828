"""Code that a checkpoint or a run folder names is run only if the user trusts its source.

See docs/decisions/020-a-checkpoint-is-data.md.
"""

from __future__ import annotations

from pathlib import Path

from oatmill.errors import UserError


def names_code(text: str) -> bool:
    """Whether a setting's text names code: `module:function`, or an environment id with its module.

    Any text with a colon counts. A needless refusal costs the user one option; a missed one may run
    harmful code.
    """
    return ":" in text


def untrusted(source: Path | str, setting: str, text: str) -> UserError:
    """Return the error for a setting that names untrusted code.

    Args:
        source: the checkpoint, the run folder or the run's address.
        setting: the setting's path, such as `env.factory`.
        text: the setting's value.
    """
    return UserError(
        f"{source} names code to be imported and run, {setting}={text}; if you trust its author, add --trust "
        "(in Python: trust=True)"
    )
