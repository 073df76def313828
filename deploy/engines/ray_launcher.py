"""Starts the processes of a run on a Ray cluster. It is the `Launcher` of `runner.local.supervisor` for Ray."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from deploy.engines.ray_process import RoleProcess
from deploy.engines.ray_roles import PLACED_WITHIN_S, RayLearner, RayProcess, end_all, reason_of
from oatmill.errors import RunError, UserError
from oatmill.settings import yaml_format
from runner.local.listening import Listening, bracketed, tcp
from runner.settings import RunSettings, prepared

REPLAY_RESOURCE = "oatmill_replay"
"""The replay server is placed on a node that was started with this Ray resource. If there is no such node,
it is placed on the driver's node."""

RayRole: TypeAlias = RayProcess | RayLearner


@dataclass(frozen=True)
class RayRun:
    """A run on Ray.

    Attributes:
        settings: the run's settings.
        run_dir: the run's folder, with the same path on every node. The learner resumes from a checkpoint
            in it.
        insecure: listen on the node's address without keys.
        keys: the folder that `oatmill keygen` created; each role gets only its own keys.
        gpu: give each rank a GPU.
        log_level: the log level of all roles.
    """

    settings: RunSettings
    run_dir: Path
    insecure: bool = False
    keys: Path | None = None
    gpu: bool = False
    log_level: str = "info"


class RayLauncher:
    """Starts the processes of a run on the nodes of a cluster.

    The methods return without waiting: Ray places a process as soon as there is room for it.

    Args:
        run: the run's settings and options.
    """

    def __init__(self, run: RayRun) -> None:
        self._run = run
        self._node: Mapping[str, Any] = {}
        self._addresses = Listening("", "")
        self._prepared: Any = None  # a placed `RoleProcess` for the first replay server
        self._replay: RayProcess | None = None
        self._learner: RayLearner | None = None
        self._group: Any = None
        self._serial = itertools.count()
        self._config = yaml_format.dump(prepared(run.settings)[0].to_dict())

    def open(self) -> str:
        """Choose the node and the ports of the replay server; returns the control address.

        Raises:
            RunError: if Ray cannot place the replay server.
        """
        self._node = replay_node(ray.nodes(), ray.get_runtime_context().get_node_id())
        self._prepared = self._place_replay()
        try:
            host, port = ray.get(self._prepared.listening_point.remote(), timeout=PLACED_WITHIN_S)
        except GetTimeoutError:
            raise RunError(f"replay was not placed within {PLACED_WITHIN_S:g} s; the cluster has no room for it") from None
        except RayError as error:
            raise RunError(f"replay could not be started: {reason_of(error)}") from None
        self._addresses = tcp(f"tcp://{bracketed(host)}:{port}")
        return self._addresses.control

    @property
    def node_of_replay(self) -> str:
        """The address of the replay server's node."""
        return str(self._node["NodeManagerAddress"])

    def start_replay(self) -> RayProcess:
        """See Launcher."""
        handle, self._prepared = self._prepared or self._place_replay(), None
        started = handle.start_replay.remote(listen=self._addresses.listen, insecure=self._run.insecure)
        self._replay = RayProcess("replay", 0, handle, started, hint=self._lost_node)
        return self._replay

    def start_learner(self, resume: bool) -> RayLearner:  # noqa: ARG002, FBT001  (each rank looks for a checkpoint on its own node)
        """See Launcher. Ray places either all ranks or none."""
        count = self._run.settings.trainer.learners
        bundle = {"CPU": 1.0} | ({"GPU": 1.0} if self._run.gpu else {})
        self._free_group()
        self._group = placement_group([bundle] * count, strategy="PACK")
        handles = []
        for rank in range(count):
            place = PlacementGroupSchedulingStrategy(placement_group=self._group, placement_group_bundle_index=rank)
            handles.append(self._place("learner", rank, num_cpus=1, num_gpus=int(self._run.gpu), scheduling_strategy=place))
        meeting_point = handles[0].meeting_point.remote()  # Ray passes its result to every rank
        address = self._addresses.control
        ranks = [
            RayProcess(
                "learner", rank, handle, handle.start_rank.remote(address=address, meeting_point=meeting_point, ranks=count)
            )
            for rank, handle in enumerate(handles)
        ]
        no_room = f"the cluster has no room for {count} learner rank(s) of {bundle}; add nodes, or take fewer --learners"
        self._learner = RayLearner(ranks, no_room)
        return self._learner

    def start_actor(self, number: int) -> RayProcess:
        """See Launcher."""
        handle = self._place("actor", number, num_cpus=1, scheduling_strategy="SPREAD")
        return RayProcess("actor", number, handle, handle.start_actor.remote(address=self._addresses.control))

    def replay_listens(self) -> bool:
        """See Launcher."""
        return self._replay is not None and self._replay.looked is not None and bool(self._replay.looked.endpoint)

    def has_checkpoint(self) -> bool:
        """See Launcher. The node of rank 0 knows it."""
        looked = self._learner.ranks[0].looked if self._learner is not None else None
        return looked is not None and looked.checkpoint

    def problem(self) -> str | None:
        """See Launcher."""
        return None

    def record(self, services: Mapping[RayRole, int], actors: Sequence[RayRole], restarts_of: Callable[[int], int]) -> None:
        """See Launcher. `oatmill cluster status` asks Ray and the processes themselves."""

    def reap(self, processes: Iterable[RayRole]) -> None:
        """See Launcher."""
        end_all([one for process in processes if process.exit_code is not None for one in flat([process])], grace_s=0.0)

    def end_all(self, processes: Sequence[RayRole], *, grace_s: float) -> None:
        """See Launcher."""
        end_all(flat(processes), grace_s=grace_s)
        for process in processes:
            process.kill()

    def close(self) -> None:
        """See Launcher."""
        if self._prepared is not None:
            ray.kill(self._prepared, no_restart=True)
        self._free_group()

    def _free_group(self) -> None:
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _place_replay(self) -> Any:
        pinned = NodeAffinitySchedulingStrategy(node_id=self._node["NodeID"], soft=False)
        return self._place("replay", 0, num_cpus=0, scheduling_strategy=pinned)

    def _place(self, role: str, number: int, **options: Any) -> Any:
        remote: Any = ray.remote(RoleProcess)
        # Each process gets a new name, because Ray frees a name only some time after its process has ended.
        return remote.options(name=f"{role}-{number}.{next(self._serial)}", **options).remote(
            role,
            number,
            config=self._config,
            run_dir=str(self._run.run_dir),
            keys=keys_of_role(self._run.keys, "server" if role == "replay" else role),
            log_level=self._run.log_level,
        )

    def _lost_node(self) -> str | None:
        """Why a lost replay server is not restarted; None if its node is still alive."""
        if any(node["Alive"] and node["NodeID"] == self._node["NodeID"] for node in ray.nodes()):
            return None
        return (
            "the node of replay is lost; `oatmill cluster up --on ray` continues from the newest checkpoint in "
            f"{self._run.run_dir}"
        )


def flat(processes: Iterable[RayRole]) -> list[RayProcess]:
    """The processes, with each learner replaced by its ranks."""
    return [one for process in processes for one in (process.ranks if isinstance(process, RayLearner) else [process])]


def replay_node(nodes: Sequence[Mapping[str, Any]], own: str) -> Mapping[str, Any]:
    """The node for the replay server: a node with `REPLAY_RESOURCE`, or else the driver's node.

    Args:
        nodes: the nodes, in Ray's format.
        own: the id of the driver's node.
    """
    alive = [node for node in nodes if node["Alive"]]
    chosen = [node for node in alive if REPLAY_RESOURCE in node["Resources"]]
    return chosen[0] if chosen else next(node for node in alive if node["NodeID"] == own)


def keys_of_role(folder: Path | None, role: str) -> dict[str, bytes] | None:
    """The contents of one role's key files, by path in the role's folder; None without keys.

    Raises:
        UserError: if the folder has no keys of the role.
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
