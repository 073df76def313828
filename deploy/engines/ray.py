"""A run on a Ray cluster: Ray places the processes and detects lost nodes. Training data goes over ZeroMQ.

`up` is the run's driver. It supervises the run to its end, and all processes that it has started
end with it. The other commands find the run by the name of its replay server's Ray actor. Then they
ask the run's hub, as they do on the other engines. Ray's own messages carry only settings, addresses,
exit codes and keys.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deploy.engines.ray_process import Looked
from oatmill.errors import RunError, UserError
from oatmill.process.signals import Interrupts, sigterm_interrupts
from runner.local.job import Account
from runner.local.reporter import LineReporter
from runner.local.supervisor import Supervisor
from runner.operator_client import OperatorClient, operator_client

try:
    import ray
    from ray.exceptions import RayError
    from ray.util import list_named_actors

    from deploy.engines.ray_launcher import RayLauncher, RayRun
except ImportError as error:
    raise UserError(f"--on ray needs Ray ({error}); install it with: pip install 'oatmill[ray]'") from None

__all__ = ["RayRun", "down", "scale", "status", "up"]

TURN_S = 0.5
LOOK_WITHIN_S = 5.0
ENDED_WITHIN_S = 90.0
"""After a stop request, a run saves a checkpoint and all its processes end within this time."""


@contextlib.contextmanager
def connected(project: str) -> Iterator[None]:
    """Connect as a driver to the cluster in RAY_ADDRESS, or to the local one.

    Raises:
        UserError: if there is no cluster.
    """
    options = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), namespace=f"oatmill-{project}", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster answers ({error}); start one with: ray start --head, or set RAY_ADDRESS") from None
    try:
        yield
    finally:
        ray.shutdown()


def replay_name() -> str | None:
    """The name of the replay server's Ray actor; None if there is no active run."""
    return next((name for name in sorted(list_named_actors()) if name.startswith("replay")), None)


@contextlib.contextmanager
def hub_of(project: str, keys: Path | None) -> Iterator[OperatorClient]:
    """Connect to the hub of the active run.

    Args:
        project: the run's name on the cluster.
        keys: the operator's keys, or the folder that contains them.

    Raises:
        UserError: if there is no active run, or it needs keys and none were given.
    """
    try:
        looked: Looked = ray.get(ray.get_actor(replay_name() or "replay").look.remote(), timeout=LOOK_WITHIN_S)
    except (ValueError, RayError):
        raise UserError(
            f"no run {project} is active on this Ray cluster; start one with `oatmill cluster up --on ray`"
        ) from None
    if looked.keyed and keys is None:
        raise UserError(f"the run {project} has keys: set OATMILL_KEYS to the folder that `oatmill keygen` made for it")
    with operator_client(str(looked.endpoint.get("control", "")), keys if looked.keyed else None) as hub:
        yield hub


def scale(project: str, actors: int, keys: Path | None) -> None:
    """Set the target number of actors; the driver follows it.

    Raises:
        UserError: if there is no active run, or the keys are missing.
        RunError: if its hub does not answer.
    """
    with connected(project), hub_of(project, keys) as hub:
        hub.scale(actors)


def status(project: str, keys: Path | None) -> tuple[dict[str, Any] | None, list[Looked]]:
    """The hub's status, and the state of each of the run's processes.

    Raises:
        UserError: if there is no active run, or the keys are missing.
    """
    # Ray reports lost nodes on standard output, which must only contain JSON.
    with contextlib.redirect_stdout(sys.stderr), connected(project):
        with hub_of(project, keys) as hub:
            answer = hub.status()
        asked = [ray.get_actor(name).look.remote() for name in sorted(list_named_actors())]
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=LOOK_WITHIN_S)
        looks = []
        for one in done:
            with contextlib.suppress(RayError):
                looks.append(ray.get(one))
        return (None if answer is None else dict(answer)), looks


def down(project: str, keys: Path | None) -> None:
    """Stop the run in order and wait until its driver has ended all its processes.

    Raises:
        UserError: if there is no active run, or the keys are missing.
        RunError: if the run does not end.
    """
    with connected(project):
        with hub_of(project, keys) as hub:
            if not hub.stop():
                raise RunError(f"the hub of {project} does not answer; its driver is the `oatmill cluster up` that started it")
        deadline = time.monotonic() + ENDED_WITHIN_S
        while replay_name() is not None:
            if time.monotonic() > deadline:
                raise RunError(f"{project} has not ended; its driver is the `oatmill cluster up` that started it")
            time.sleep(TURN_S)


def up(project: str, run: RayRun, *, say: Callable[[str], object] = print) -> None:
    """Run until the budget is spent or the run is stopped.

    Args:
        project: the run's name on the cluster.
        run: the run's settings and options.
        say: prints a line for the user.

    Raises:
        UserError: if the run cannot be started.
        RunError: if the run fails, for example because the replay server's node is lost.
    """
    if run.keys is None and not run.insecure:
        raise UserError(
            "roles communicate over the cluster's network: set OATMILL_KEYS to a folder of `oatmill keygen`, or use --insecure"
        )
    with connected(project), sigterm_interrupts() as stops:
        if replay_name() is not None:
            raise UserError(f"a run {project} is active already; use another --project")
        with contextlib.closing(RayLauncher(run)) as launcher:
            control = launcher.open()
            say(f"replay is on {launcher.node_of_replay}, control {control}")
            with operator_client(control, run.keys) as hub, Interrupts(stops) as interrupts:
                supervisor = Supervisor(
                    launcher,
                    LineReporter(say),
                    hub,
                    settings=run.settings,
                    account=Account(),
                    interrupts=interrupts,
                    resume=True,
                )
                supervisor.run()
