"""A run on a Ray cluster: Ray places its processes, starts actors again and notices lost nodes; data goes over ZeroMQ.

`up` is the run's driver: it stays until the run ends, and all that it has started ends with it. The other commands find the run
by the name of its replay actor and speak to its hub, as they do everywhere. Ray's own messages carry settings, addresses, exit
codes and keys, and nothing of what is trained on.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.engines.ray_process import Looked, RoleProcess
from oatmill.errors import OatmillError, RunError, UserError
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.exit_codes import BAD_INPUT
from oatmill.process.signals import sigterm_interrupts
from oatmill.settings import yaml_format
from runner.operator_client import operator_client
from runner.settings import RunSettings, prepared

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayError
    from ray.util import list_named_actors, placement_group, remove_placement_group
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy
except ImportError as error:
    raise UserError(f"--on ray needs Ray ({error}); install it with: pip install 'oatmill[ray]'") from None

REPLAY_RESOURCE = "oatmill_replay"
"""A node that was started with this resource is where replay goes; without one it is the driver's."""
TURN_S = 0.5
PLACED_WITHIN_S = 120.0
LOOK_WITHIN_S = 5.0
SILENT_S = 60.0
"""A process of replay or learner that has told nothing for this long is lost."""
LEAVE_WITHIN_S = 15.0
BROKEN_LEAVE_WITHIN_S = 1.0
SAVED_WITHIN_S = 60.0


@dataclass(frozen=True)
class RayRun:
    """What is to be run.

    Attributes:
        settings: of the run.
        run_dir: its folder, on every node that has a part of it; the learner goes on from a checkpoint that is there.
        insecure: listen on the node's address without keys.
        keys: the folder that `oatmill keygen` has made; its parts are handed to the roles.
        gpu: give each rank a GPU.
        log_level: of all roles.
    """

    settings: RunSettings
    run_dir: Path
    insecure: bool = False
    keys: Path | None = None
    gpu: bool = False
    log_level: str = "info"


@contextlib.contextmanager
def connected(project: str) -> Iterator[None]:
    """Be a driver of the Ray cluster that RAY_ADDRESS names, or this machine's.

    Raises:
        UserError: if there is none.
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


def address_of(project: str) -> str:
    """The control address of the run that goes on.

    Raises:
        UserError: if there is none.
    """
    try:
        looked: Looked = ray.get(ray.get_actor("replay").look.remote(), timeout=LOOK_WITHIN_S)
    except (ValueError, RayError):
        raise UserError(f"no run {project} goes on on this Ray cluster; start one with `oatmill cluster up --on ray`") from None
    return str(looked.endpoint.get("control", ""))


def scale(project: str, actors: int) -> None:
    """Set the number of actors; the driver follows.

    Raises:
        UserError: if no run goes on.
        RunError: if its hub does not answer.
    """
    with connected(project), operator_client(address_of(project)) as hub:
        hub.scale(actors)


def status(project: str) -> tuple[dict[str, Any] | None, list[Looked]]:
    """The hub's status, and what each of the run's processes tells of itself."""
    # Ray writes of lost nodes to standard output, which may be JSON's.
    with contextlib.redirect_stdout(sys.stderr), connected(project):
        with operator_client(address_of(project)) as hub:
            answer = hub.status()
        asked = [ray.get_actor(name).look.remote() for name in sorted(list_named_actors())]
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=LOOK_WITHIN_S)
        looks = []
        for one in done:
            with contextlib.suppress(RayError):
                looks.append(ray.get(one))
        return (None if answer is None else dict(answer)), looks


def down(project: str) -> None:
    """End the run in order and wait until its driver has let everything go.

    Raises:
        UserError: if no run goes on.
        RunError: if it does not end.
    """
    with connected(project):
        with operator_client(address_of(project)) as hub:
            hub.stop()
        deadline = time.monotonic() + SAVED_WITHIN_S + 2 * LEAVE_WITHIN_S
        while "replay" in list_named_actors():
            if time.monotonic() > deadline:
                raise RunError(f"{project} has not ended; its driver is the `oatmill cluster up` that started it")
            time.sleep(TURN_S)


def up(project: str, run: RayRun, *, say: Callable[[str], object] = print) -> None:
    """Run to the end of the budget, or until somebody stops it.

    Args:
        project: the run's name on the cluster.
        run: what is run.
        say: is given lines for people.

    Raises:
        UserError: if it cannot be run as asked.
        RunError: if it fails; losing the node of replay or of a learner rank is a failure.
    """
    if run.keys is None and not run.insecure:
        raise UserError(
            "a Ray cluster's roles talk over its network: set OATMILL_KEYS to a folder of `oatmill keygen`, or say --insecure"
        )
    with connected(project):
        if "replay" in list_named_actors():
            raise UserError(f"a run {project} goes on already; name another --project")
        driver = Driver(run, say)
        try:
            with sigterm_interrupts():
                try:
                    driver.start()
                    driver.watch()
                except KeyboardInterrupt:
                    say("stopping: the learner step is finished and saved")
                    driver.stop()
        finally:
            driver.end()


@dataclass
class Driver:
    """The processes of one run on the cluster."""

    run: RayRun
    say: Callable[[str], object]
    replay: Any = None
    group: Any = None
    ranks: list[Any] = field(default_factory=list)
    actors: dict[int, Any] = field(default_factory=dict)
    control: str = ""
    _broken: bool = False
    _heard: dict[str, float] = field(default_factory=dict)
    _clock: AwakeClock = field(default_factory=AwakeClock)

    def start(self) -> None:
        """Place replay, then ranks, then actors."""
        node = replay_node(ray.nodes(), ray.get_runtime_context().get_node_id())
        pinned = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        self.replay = self._place("replay", 0, num_cpus=0, scheduling_strategy=pinned)
        self._ask(self.replay.start_replay.remote(insecure=self.run.insecure), "replay", PLACED_WITHIN_S)
        self._wait_for_hub()
        self.say(f"replay is on {node['NodeManagerAddress']}, control {self.control}")
        self._start_ranks()
        self._follow(self.run.settings.actors.count)

    def _place(self, role: str, number: int, *, address: str | None = None, **options: Any) -> Any:
        remote: Any = ray.remote(RoleProcess)
        name = "replay" if role == "replay" else f"{role}-{number}"
        config = yaml_format.dump(prepared(self.run.settings)[0].to_dict())
        keys = keys_of_role(self.run.keys, "server" if role == "replay" else role)
        return remote.options(name=name, **options).remote(
            role,
            number,
            config=config,
            run_dir=str(self.run.run_dir),
            keys=keys,
            log_level=self.run.log_level,
            address=address,
        )

    def _wait_for_hub(self) -> None:
        deadline = time.monotonic() + PLACED_WITHIN_S
        while not self.control:
            looked = self._look(self.replay, "replay")
            self.control = str(looked.endpoint.get("control", "")) if looked else ""
            if time.monotonic() > deadline:
                raise RunError("replay did not listen in time; its log is in the run's folder on its node")
            time.sleep(0.1)

    def _start_ranks(self) -> None:
        """Place all ranks or none, ask where rank 0 is, and start them."""
        count = self.run.settings.trainer.learners
        bundle = {"CPU": 1.0} | ({"GPU": 1.0} if self.run.gpu else {})
        self.group = placement_group([bundle] * count, strategy="PACK")
        if not self.group.wait(PLACED_WITHIN_S):
            raise RunError(
                f"the cluster has no room for {count} learner rank(s) of {bundle}; add nodes, or take fewer --learners"
            )
        for rank in range(count):
            place = PlacementGroupSchedulingStrategy(placement_group=self.group, placement_group_bundle_index=rank)
            options = {"num_cpus": 1, "num_gpus": int(self.run.gpu), "scheduling_strategy": place}
            self.ranks.append(self._place("learner", rank, **options))
        host, port = self._ask(self.ranks[0].meeting_point.remote(), "learner-0", PLACED_WITHIN_S)
        meet = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "LOCAL_RANK": "0"}
        started = [
            handle.start_rank.remote(address=self.control, environment={**meet, "RANK": str(rank)})
            for rank, handle in enumerate(self.ranks)
        ]
        self._ask(started, "learner", PLACED_WITHIN_S)

    def watch(self) -> None:
        """Look after the run until the learner has ended well.

        Raises:
            RunError: if replay, a rank or their node is lost, or one fails.
            UserError: if a process refuses its settings.
        """
        with operator_client(self.control) as hub:
            while True:
                self._check(self._look(self.replay, "replay"), may_end=False)
                looks = [self._look(handle, f"learner-{rank}") for rank, handle in enumerate(self.ranks)]
                for looked in looks:
                    self._check(looked, may_end=True)
                if all(looked is not None and looked.exit_code == 0 for looked in looks):
                    return
                answer = hub.status()
                if answer is not None and not answer["stop"]:
                    self._follow(answer["desired_actors"])
                self._check_actors()
                time.sleep(TURN_S)

    def _check(self, looked: Looked | None, *, may_end: bool) -> None:
        if looked is not None and looked.exit_code is not None and not (may_end and looked.exit_code == 0):
            raise failure(looked)

    def _check_actors(self) -> None:
        """Ray starts a lost actor again; one that refuses its settings would do so everywhere."""
        asked = {handle.look.remote(): number for number, handle in self.actors.items()}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0.2) if asked else ([], [])
        for one in done:
            with contextlib.suppress(RayError):
                looked: Looked = ray.get(one)
                if looked.exit_code == BAD_INPUT:
                    raise failure(looked)

    def _follow(self, desired: int) -> None:
        """Start or let go actors until there are `desired`; those with the highest numbers go first."""
        for number in range(desired):
            if number not in self.actors:
                options = {"num_cpus": 1, "max_restarts": -1, "scheduling_strategy": "SPREAD"}
                self.actors[number] = self._place("actor", number, address=self.control, **options)
        leaving = [self.actors.pop(number) for number in sorted(self.actors) if number >= desired]
        self._let_go(leaving)

    def _let_go(self, handles: Sequence[Any]) -> None:
        """Ask processes to end, with time to hand over what they have; then take their places away."""
        grace_s = BROKEN_LEAVE_WITHIN_S if self._broken else LEAVE_WITHIN_S
        asked = [handle.leave.remote(grace_s) for handle in handles]
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=grace_s + 5)
        for handle in handles:
            ray.kill(handle, no_restart=True)

    def _look(self, handle: Any, name: str) -> Looked | None:
        """What a process tells of itself; None if it does not answer at the moment."""
        self._heard.setdefault(name, self._clock.now())
        try:
            looked: Looked = ray.get(handle.look.remote(), timeout=LOOK_WITHIN_S)
        except GetTimeoutError:
            if self._clock.now() - self._heard[name] > SILENT_S:
                raise RunError(f"{name} has told nothing for {SILENT_S:g} s; {self._left()}") from None
            return None
        except RayActorError:
            self._broken = True
            raise RunError(f"the node of {name} is lost, or its process was killed; {self._left()}") from None
        self._heard[name] = self._clock.now()
        return looked

    def _left(self) -> str:
        return f"`oatmill cluster up --on ray` goes on from the newest checkpoint in {self.run.run_dir}"

    def _ask(self, reference: Any, name: str, timeout_s: float) -> Any:
        try:
            return ray.get(reference, timeout=timeout_s)
        except GetTimeoutError:
            raise RunError(f"{name} was not placed within {timeout_s:g} s; the cluster has no room for it") from None
        except RayError as error:
            raise RunError(f"{name} could not be started: {str(error).splitlines()[-1]}") from None

    def stop(self) -> None:
        """Tell all to end, and give the learner time to save."""
        if self.control:
            with operator_client(self.control) as hub:
                hub.stop()
        deadline = time.monotonic() + SAVED_WITHIN_S
        for rank, handle in enumerate(self.ranks):
            while time.monotonic() < deadline:
                looked = self._look(handle, f"learner-{rank}")
                if looked is not None and looked.exit_code is not None:
                    break
                time.sleep(TURN_S)

    def end(self) -> None:
        """End everything that is left. Safe to call at any point."""
        with contextlib.suppress(RayError):
            self._let_go([*self.actors.values(), *self.ranks])
            self._let_go([self.replay] if self.replay is not None else [])
        if self.group is not None:
            remove_placement_group(self.group)


def failure(looked: Looked) -> OatmillError:
    """The error of a process that has ended badly."""
    message = (
        looked.error
        or f"the {looked.name} process on {looked.node} ended with exit code {looked.exit_code}; its log is {looked.log}"
    )
    return UserError(message) if looked.exit_code == BAD_INPUT else RunError(message)


def replay_node(nodes: Sequence[Mapping[str, Any]], own: str) -> Mapping[str, Any]:
    """Where replay goes: the node that was started for it, or the driver's.

    Args:
        nodes: as Ray lists them.
        own: the driver's node's id.
    """
    alive = [node for node in nodes if node["Alive"]]
    chosen = [node for node in alive if REPLAY_RESOURCE in node["Resources"]]
    return chosen[0] if chosen else next(node for node in alive if node["NodeID"] == own)


def keys_of_role(folder: Path | None, role: str) -> dict[str, bytes] | None:
    """The key files of one role by their path in its folder; None without keys.

    Raises:
        UserError: if there are none.
    """
    if folder is None:
        return None
    own = folder / role
    try:
        found = {str(path.relative_to(own)): path.read_bytes() for path in own.rglob("*") if path.is_file()}
    except OSError as error:
        raise UserError(f"{own} cannot be read: {error.strerror}") from None
    if not found:
        raise UserError(f"OATMILL_KEYS={folder} holds no keys of {role}; make them with `oatmill keygen`")
    return found
