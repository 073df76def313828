"""Runs actors of another machine's run on this machine (`oatmill join`), until the run ends or this machine leaves.

The run's hub tells this machine the numbers of its actors, the settings that they need and how many should run. An `ActorPool`
keeps them alive, as in a run on one machine. Nothing that the hub sends is trusted: settings are validated, and code that they
name is imported only if the user allows it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oatmill.children.family import Guardian
from oatmill.errors import JoinRefusedError, PeerLostError, RunError, SettingsError, UserError
from oatmill.files.atomic import FOLDER_MODE
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.exit_codes import BAD_INPUT
from oatmill.process.signals import NOT_COUNTED, Interrupts
from protocol.channels import ControlClient, ControlState, Welcome
from protocol.security.keys import client_keys
from protocol.wire.codec import is_count, to_json
from protocol.wire.version import versions
from replay.hub.machines import MAX_ACTORS
from runner.local.actor_pool import LEAVE_WITHIN_S, ActorGivenUpError, ActorPool
from runner.local.child import Child, end_all, end_families_of
from runner.local.commands import actor_command
from runner.local.forking import Forking
from runner.local.listening import held
from runner.settings import RunSettings, write_config
from runner.trust import ENVIRONMENT, check_trust

ANSWERS_WITHIN_S = 60.0
"""The longest wait for the hub's first answer."""
JOIN_SLICE_S = 1.0
TURN_S = 0.1
STATUS_EVERY_S = 1.0
ANSWER_S = 2.0
MAX_SETTINGS_BYTES = 256 * 1024
LAST_LINES = 15
USED = (*ENVIRONMENT, "agent.")
"""Prefixes of the settings that an actor uses and that may name code."""


@dataclass(frozen=True)
class Joining:
    """The arguments of `oatmill join`.

    Attributes:
        address: the run's control address.
        actors: the largest number of actors on this machine.
        keys: the folder of an actor's keys; None for a run without keys.
        trust: whether code that the run's settings name may be imported.
        logs: the folder of the actors' logs; None makes a temporary one, which is removed if all goes well.
        log_level: the log level of the actors.
        say: prints a line for the user.
    """

    address: str
    actors: int
    keys: Path | None
    trust: bool
    logs: Path | None
    log_level: str
    say: Callable[[str], object]


def join_run(joining: Joining) -> None:
    """Run actors until the run ends, or this process is asked to end.

    Raises:
        UserError: if the run cannot be joined: nothing answers, it refuses this machine, or its settings are not accepted.
        RunError: if the run is lost, or an actor fails again and again.
    """
    description = {"versions": versions(), "name": socket.gethostname(), "actors": joining.actors}
    keys = client_keys(joining.keys, "actor")
    joining.say(f"connecting to {joining.address} (for up to {ANSWERS_WITHIN_S:g} s)")
    with Interrupts() as interrupts:
        client = ControlClient(joining.address, role="machine", description=description, keys=keys)
        with closing(client) as control:
            welcome = first_answer(control, joining.address, interrupts)
            if welcome is None:
                return
            first = first_number(welcome, joining)
            settings = accepted_settings(welcome.settings, joining.address, trust=joining.trust)
            with folder_of(joining.logs) as folder:
                write_config(settings, folder / "config.yaml")
                with closing(
                    JoinedMachine(joining, control, first=first, settings=settings, folder=folder, interrupts=interrupts)
                ) as machine:
                    machine.run()


def first_answer(control: ControlClient, address: str, interrupts: Interrupts) -> Welcome | None:
    """Ask to join until the hub answers; None if this process was asked to end before.

    Raises:
        UserError: if the hub refuses this machine, or does not answer in time.
    """
    clock = AwakeClock()
    deadline = clock.now() + ANSWERS_WITHIN_S
    while not interrupts.count:
        try:
            return control.join(JOIN_SLICE_S)
        except JoinRefusedError as error:
            too_old = "; its oatmill is too old for `oatmill join`" if "expected a role" in str(error) else ""
            raise UserError(f"{error}{too_old}") from None
        except PeerLostError:
            if clock.now() > deadline:
                raise UserError(
                    f"no hub answered at {address} within {ANSWERS_WITHIN_S:g} s{control.why}; expected the control address "
                    "of a run that listens on tcp and is still going on"
                ) from None
    return None


def first_number(welcome: Welcome, joining: Joining) -> int:
    """The lowest number of this machine's actors.

    Raises:
        UserError: if the hub has sent none that an actor can have.
    """
    if not 0 <= welcome.actor_id <= MAX_ACTORS - joining.actors:
        raise UserError(
            f"{joining.address} sent {welcome.actor_id} as the first of {joining.actors} actor numbers; expected at most "
            f"{MAX_ACTORS - joining.actors}: it is not the hub of an oatmill run, or a broken one"
        )
    return welcome.actor_id


def accepted_settings(values: Mapping[str, Any], address: str, *, trust: bool) -> RunSettings:
    """The run's settings, validated.

    Args:
        values: what the hub has sent.
        address: the hub's address, for messages.
        trust: whether code that they name may be imported.

    Raises:
        UserError: if they are too long or invalid, or name code without `trust`.
    """
    source = f"the run at {address}"
    nbytes = len(to_json(values))
    if nbytes > MAX_SETTINGS_BYTES:
        raise UserError(f"{source} sent settings of {nbytes} bytes; expected at most {MAX_SETTINGS_BYTES}")
    try:
        settings = RunSettings.of(values)
    except SettingsError as error:
        raise UserError(f"{source} sent settings that are not valid here: {error}") from None
    check_trust(settings, source, trust=trust, places=USED)
    return settings


@contextlib.contextmanager
def folder_of(asked: Path | None) -> Iterator[Path]:
    """The folder of logs and settings. A temporary one is removed, unless there was a RunError.

    Raises:
        UserError: if it cannot be created.
    """
    try:
        if asked is None:
            folder = Path(tempfile.mkdtemp(prefix="oatmill-join-"))
        else:
            folder = asked.absolute()
            folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder for logs {asked or tempfile.gettempdir()} cannot be used: {error.strerror}; choose another --log-dir"
        ) from None
    with held(folder):
        try:
            yield folder
        except RunError:
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True) if asked is None else None
            raise
        if asked is None:
            shutil.rmtree(folder, ignore_errors=True)


class JoinedMachine:
    """The actors of this machine; starts and ends their processes.

    Args:
        joining: the arguments of the command.
        control: the connection to the hub, which has accepted this machine.
        first: the lowest number of this machine's actors.
        settings: the run's settings.
        folder: the folder of logs, with the settings in config.yaml.
        interrupts: counts Ctrl-C and SIGTERM.
    """

    def __init__(
        self,
        joining: Joining,
        control: ControlClient,
        *,
        first: int,
        settings: RunSettings,
        folder: Path,
        interrupts: Interrupts,
    ) -> None:
        self._joining, self._control, self._folder, self._interrupts = joining, control, folder, interrupts
        self._numbers = range(first, first + joining.actors)
        self._clock = AwakeClock()
        self._next_status, self._share = 0.0, -1
        self._guardian = Guardian()
        self._forking = Forking(folder / "fork-server.log", self._guardian)
        self._pool: ActorPool[Child] = ActorPool(
            self,
            settings=settings.actors,
            notice=self._notice,
            clock=self._clock,
        )

    def run(self) -> None:
        """Keep the wanted number of actors running until the run ends, or this process is asked to end.

        Raises:
            UserError: if an actor reports bad input before any has joined.
            RunError: if the hub is lost or rejects this machine, or an actor fails again and again.
        """
        try:
            while not self._interrupts.count and not self._control.state.stop:
                self._turn()
                time.sleep(TURN_S)
        except ActorGivenUpError as error:
            raise self._given_up(error) from None
        self._joining.say("the run has ended; the actors stop" if self._control.state.stop else "leaving the run")
        self._leave()

    def _turn(self) -> None:
        self._control.heartbeat({})
        state = self._control.state
        if state.fenced:
            reason, detail = self._control.refusal or ("fenced", "another machine has its actor numbers")
            raise RunError(f"the hub has rejected this machine ({reason}): {detail}")
        if self._clock.now() >= self._next_status:
            self._hear()
        if state != ControlState():  # the hub has told this machine's share
            self._follow(min(state.desired_actors, len(self._numbers)))
        self._pool.turn()
        for child in self._pool.children:
            child.bound_log()

    def _hear(self) -> None:
        """Ask the hub for the progress of this machine's actors. If it does not answer, `heartbeat` raises in the end."""
        self._next_status = self._clock.now() + STATUS_EVERY_S
        with contextlib.suppress(PeerLostError):
            status = self._control.request("status", {}, timeout_s=ANSWER_S)
            self._pool.heard(list(entries_of(status.get("actors"), self._numbers)))

    def _follow(self, share: int) -> None:
        if share != self._share:
            self._share = share
            self._control.describe(share=share)
            first, last = self._numbers[0], self._numbers[-1]
            self._joining.say(f"{share} of {len(self._numbers)} actors run here, of the numbers {first} to {last}")
        self._pool.follow(share, self._numbers)

    def _leave(self) -> None:
        """Ask the actors to finish and send their unrolls; a second signal, or the deadline, ends them at once."""
        self._pool.ending = True
        for child in self._pool.children:
            child.terminate()
        deadline = self._clock.now() + LEAVE_WITHIN_S
        while not self._pool.all_gone() and self._clock.now() < deadline and self._interrupts.count < 2:  # noqa: PLR2004
            with contextlib.suppress(PeerLostError):
                self._control.heartbeat({})
            if self._interrupts.hasty():
                self._joining.say(NOT_COUNTED)
            time.sleep(TURN_S / 2)

    def close(self) -> None:
        """End all actors that still run. Safe to call at any point."""
        self._pool.end(grace_s=0.0)
        self._forking.close()
        self._guardian.close()

    def _given_up(self, error: ActorGivenUpError) -> UserError | RunError:
        child = error.child
        if child.exit_code == BAD_INPUT:
            return UserError(str(error))
        for line in child.last_lines(LAST_LINES):
            self._joining.say(f"  {child.name}: {line}")
        return RunError(f"{error}; its log is {child.log}")

    def _notice(self, _event: str, text: str, _values: Mapping[str, Any]) -> None:
        if text:
            self._joining.say(text)

    def start_actor(self, number: int) -> Child | None:
        """See ActorLauncher."""
        joining = self._joining
        command = actor_command(
            self._folder / "config.yaml",
            address=joining.address,
            number=number,
            log_level=joining.log_level,
            keys=joining.keys,
        )
        if (way := self._forking.way(command)) is None:
            return None
        child = Child("actor", number, command, log=self._folder / f"actor-{number}.log", threads=1, start=way)
        self._guardian.watch(child.tag, child.pid)
        return child

    def reap(self, processes: Iterable[Child]) -> None:
        """See ActorLauncher."""
        end_families_of(processes)

    def end_all(self, processes: Sequence[Child], *, grace_s: float) -> None:
        """See ActorLauncher."""
        end_all(processes, grace_s=grace_s)


def entries_of(actors: Any, numbers: range) -> Iterator[Mapping[str, Any]]:
    """The well-formed entries of this machine's actors in the hub's status.

    Args:
        actors: what the hub has sent.
        numbers: the numbers of this machine's actors.
    """
    for entry in actors if isinstance(actors, list) else []:
        if not isinstance(entry, dict):
            continue
        counts = {name: entry.get(name, 0) for name in ("actor_id", "incarnation", "unrolls")}
        if all(map(is_count, counts.values())) and counts["actor_id"] in numbers:
            yield counts | {name: bool(entry.get(name, default)) for name, default in (("alive", True), ("left", False))}
