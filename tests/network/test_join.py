"""`oatmill join` and learner ranks on hosts of their own, over a network that is cut. Real processes, with keys."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from protocol.security.keys import make_keys
from tests.network.network import Host, cut
from tests.network.places import Process, missing_privilege, network_of
from tests.network.runs import CONTROL_PORT, FarRun
from tests.system.real_runs import ENDLESS, accounted, command

WHY_NOT = missing_privilege()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no network of our own: {WHY_NOT}"),
]
WITHIN_S = 240.0
CUT_S = 9.0
RANK = 'exec "$0" -m deploy learner "$@" $(test -e run/checkpoints/latest && echo --resume)'


@contextmanager
def roles(folder: Path, *names: str, settings: list[str]) -> Iterator[tuple[FarRun, ExitStack, list[Host]]]:
    """A run whose replay server is on the first host; the others are free for a test."""
    make_keys(folder / "keys")
    with network_of(*names) as (network, hosts), ExitStack() as stack:
        run = FarRun(folder, network, hosts[0], hosts[0], [], ["cartpole", *settings])
        at = ["--listen", f"tcp://{hosts[0].address}:{CONTROL_PORT - 2}", "--run-dir", "run", "--keys", "keys/server"]
        run.start(stack, "replay", hosts[0], command("replay", *run.settings, *at))
        watch = [sys.executable, "-m", "tests.network.watch", run.address, "keys/operator"]
        run.start(stack, "watch", hosts[0], watch)
        yield run, stack, hosts


def join(run: FarRun, stack: ExitStack, name: str, host: Host) -> None:
    """A host joins with two actors."""
    arguments = ["--actors", "2", "--keys", "keys/actor", "--log-dir", f"logs-{name}"]
    run.start(stack, name, host, command("join", host_port(run), *arguments))


def host_port(run: FarRun) -> str:
    return run.address.removeprefix("tcp://")


def learner(run: FarRun, stack: ExitStack) -> None:
    """One learner, beside the replay server."""
    arguments = ["--address", run.address, "--run-dir", "run", "--keys", "keys/learner"]
    run.start(stack, "learner", run.learner, command("learner", *run.settings, *arguments))


def numbers(run: FarRun) -> set[int]:
    """The actors that are there."""
    return {actor["actor_id"] for actor in run.status().get("actors", []) if actor["alive"]}


def works(run: FarRun, number: int, more_than: int = 0, incarnation: int = 1) -> bool:
    """Whether an actor has taken more steps."""
    actor = run.actor(number)
    return bool(actor) and actor["incarnation"] == incarnation and actor.get("env_steps", 0) > more_than and actor["alive"]


def actor_process(machine: Process, number: int) -> psutil.Process:
    """The process of a machine's actor."""
    words = ["--actor-id", str(number)]
    return next(child for child in psutil.Process(machine.pid).children(recursive=True) if child.cmdline()[-2:] == words)


def test_two_hosts_join_are_cut_off_are_killed_and_leave_with_the_run(tmp_path: Path) -> None:
    with roles(tmp_path, "hub", "east", "west", settings=ENDLESS) as (run, stack, (_, east, west)):
        learner(run, stack)
        began = time.monotonic()
        join(run, stack, "east", east)
        run.until(lambda: works(run, 1) and works(run, 2), WITHIN_S, "both actors of the first host work")
        sys.stdout.write(f"first trajectories after {time.monotonic() - began:.1f} s\n")
        join(run, stack, "west", west)
        run.until(lambda: works(run, 3) and works(run, 4), WITHIN_S, "those of the second host, too")
        assert [machine["share"] for machine in run.status()["machines"]] == [2, 2]

        actor_process(run.processes["east"], 1).kill()
        again = run.until(lambda: works(run, 1, incarnation=2), WITHIN_S, "a killed actor works again")
        sys.stdout.write(f"a killed actor works again after {again:.1f} s\n")

        pids = [actor_process(run.processes["west"], number).pid for number in (3, 4)]
        heal = cut(west.up, west.down)
        run.until(lambda: numbers(run) == {1, 2}, WITHIN_S, "the actors of a host that is cut off are missed")
        time.sleep(CUT_S)
        steps = run.actor(3)["env_steps"]
        heal()
        back = run.until(lambda: works(run, 3, more_than=steps), WITHIN_S, "they work again")
        sys.stdout.write(f"after a cut of more than {CUT_S:g} s they work again {back:.1f} s after its end\n")
        assert [actor_process(run.processes["west"], number).pid for number in (3, 4)] == pids
        assert [machine["share"] for machine in run.status()["machines"]] == [2, 2]

        os.kill(run.processes["east"].pid, signal.SIGKILL)
        run.processes.pop("east").wait(10)
        run.until(lambda: numbers(run) == {3, 4}, WITHIN_S, "the actors of a killed `oatmill join` leave with it")
        run.until(lambda: len(run.status()["machines"]) == 1, WITHIN_S, "its place is free again")

        ended = run.stop_roles(stack, "learner", "west")
        assert ended["produced"] == accounted(ended), ended
        assert "the run has ended" in run.processes["west"].last_words()


def ranks_of(*agents: Process) -> dict[str, psutil.Process]:
    """The ranks of the learner, by RANK."""
    children = [child for agent in agents for child in psutil.Process(agent.pid).children()]
    return {child.environ()["RANK"]: child for child in children if "learner" in child.cmdline()}


def test_ranks_on_two_hosts_are_restarted_together_by_torchrun_whichever_of_them_is_killed(tmp_path: Path) -> None:
    settings = [*ENDLESS, "trainer.learners=2", "trainer.checkpoint_every=4", "trainer.distributed_timeout=120"]
    with roles(tmp_path, "hub", "first", "second", "east", settings=settings) as (run, stack, (_, *boxes, east)):
        role = ["--address", run.address, "--run-dir", "run", "--keys", "keys/learner"]
        for number, box in enumerate(boxes):
            meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint={boxes[0].address}:29400", "--rdzv-id=run"]
            meet += [f"--rdzv-conf=is_host={int(number == 0)}", f"--local-addr={box.address}", "--max-restarts=1000"]
            agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *meet]
            rank = ["--no-python", "sh", "-c", RANK, sys.executable, *run.settings, *role]
            run.start(stack, f"box{number}", box, [*agent, *rank], TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
        join(run, stack, "east", east)
        agents = [run.processes[f"box{number}"] for number in range(2)]
        run.until_trained(8 * 10, within_s=WITHIN_S)
        for victim in ("1", "0"):
            before = ranks_of(*agents)
            assert set(before) == {"0", "1"}
            step = run.status()["learner"]["learner_step"]
            before[victim].kill()
            back = run.until(lambda: run.status()["learner"].get("learner_step", 0) > step + 8, WITHIN_S, "both train on")  # noqa: B023
            sys.stdout.write(f"rank {victim} was killed: both train on after {back:.1f} s\n")
            after = ranks_of(*agents)
            assert not {process.pid for process in before.values()} & {process.pid for process in after.values()}
        ended = run.stop_roles(stack, "box0", "box1", "east")
        assert ended["produced"] == accounted(ended), ended
