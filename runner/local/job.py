"""The supervisor's input (`Job`) and its record of the run (`Account`)."""

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
    """A run on this machine.

    Attributes:
        settings: the run's settings.
        folder: the run folder, locked by this process.
        addresses: the addresses at which the server listens.
        insecure: whether the server may listen on the network without keys.
        observer: receives progress and events.
        identity: further entries of run.json: recipe, preset, seed and start time.
        resume: whether the learner starts from the newest checkpoint.
        log_level: the log level of all roles.
        keys: the folder of all roles' keys; None for a run without keys.
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
    """The supervisor's record of a run, for the summary.

    Attributes:
        status: the last status from the hub.
        restarts: the number of restarts of all actors.
        stopped: whether the run was asked to stop.
    """

    status: Mapping[str, Any] = field(default_factory=dict)
    restarts: int = 0
    stopped: bool = False
