"""What a supervisor is given, and what it gives an account of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.folder import RunFolder
from runner.local.listening import Listening
from runner.observer import Observer
from runner.settings import RunSettings


@dataclass(frozen=True)
class Job:
    """What is to be supervised.

    Attributes:
        settings: of the run.
        folder: of the run, held.
        addresses: where its server listens.
        insecure: whether it may listen beyond this machine without keys.
        observer: is told what happens.
        identity: what run.json says beside endpoints and processes.
        resume: whether the learner goes on from its newest checkpoint.
        log_level: of all roles.
        keys: the folder of all roles' keys; None for a run without.
    """

    settings: RunSettings
    folder: RunFolder
    addresses: Listening
    observer: Observer
    insecure: bool = False
    identity: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    log_level: str = "info"
    keys: Path | None = None


@dataclass
class Account:
    """What the supervisor knows at a run's end.

    Attributes:
        status: the hub's last answer.
        restarts: of actors, in all.
        stopped: whether the run ended because somebody asked.
    """

    status: Mapping[str, Any] = field(default_factory=dict)
    restarts: int = 0
    stopped: bool = False
