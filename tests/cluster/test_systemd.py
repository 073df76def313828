"""The units of deploy/systemd under a real systemd: two machines with a rank each, and one that joins with actors.

The machines are containers whose first process is systemd, on a network of their own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.clusters import ROOT, built, run, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

IMAGE = "oatmill-test/oatmill:systemd"
UNITS = {"east": ["oatmill-replay", "oatmill-rank"], "west": ["oatmill-rank"], "south": ["oatmill-join"]}
SETTINGS = "trainer.learners=2 trainer.total_timesteps=1000000000 trainer.batch_size=16 trainer.epochs=1 \
trainer.checkpoint_every=5 trainer.distributed_timeout=20 actors.envs_per_actor=4 agent.hidden_sizes=[32]"
MAY = [
    "--tmpfs",
    "/run",
    "--tmpfs",
    "/tmp",
    "--cgroupns",
    "private",
    "--cap-add",
    "SYS_ADMIN",
    "--security-opt",
    "seccomp=unconfined",
    "--security-opt",
    "apparmor=unconfined",
]
TABLE: list[str] = []


class Machines:
    """Three machines, their network, and a disk that they share.

    Args:
        name: the beginning of every name that the engine knows.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.disk, self.network = f"{name}-disk", f"{name}-net"
        self.control = ""

    def start(self) -> None:
        """Boot them, and enable their units."""
        run("docker", "network", "create", self.network)
        keygen = ("--entrypoint", "/opt/oatmill/bin/oatmill", "--user", "10001", IMAGE, "keygen", "/runs/keys")
        run("docker", "run", "--rm", "--volume", f"{self.disk}:/runs", *keygen)
        for machine in UNITS:
            place = "--name", f"{self.name}-{machine}", "--network", self.network, "--volume", f"{self.disk}:/runs"
            run("docker", "run", "--detach", *MAY, *place, IMAGE)
        east = self.address("east")
        self.control = f"tcp://{east}:7302"
        learned = {"OATMILL_RECIPE": "cartpole", "OATMILL_SETTINGS": SETTINGS}
        meet = {"MACHINES": "2", "RANKS_HERE": "1", "MEET": f"{east}:29400"}
        rank = {**learned, **meet, "OATMILL_RUN_DIR": "/runs/cartpole", "OATMILL_KEYS": "/runs/keys/learner"}
        variables = {
            "oatmill-replay": {
                **learned,
                "OATMILL_LISTEN": f"tcp://{east}:7300",
                "OATMILL_RUN_DIR": "/runs/replay",
                "OATMILL_KEYS": "/runs/keys/server",
            },
            "oatmill-rank": {**rank, "OATMILL_ADDRESS": self.control},
            "oatmill-join": {"OATMILL_ADDRESS": self.control, "OATMILL_ACTORS": "2", "OATMILL_KEYS": "/runs/keys/actor"},
        }
        for machine, units in UNITS.items():
            own = {"IS_HOST": str(int(machine == "east")), "OWN_ADDRESS": self.address(machine)}
            for unit in units:
                lines = "".join(f"{key}={value}\n" for key, value in (variables[unit] | own).items())
                role = unit.removeprefix("oatmill-")
                self.inside(machine, "sh", "-c", f"umask 77; mkdir -p /etc/oatmill; cat > /etc/oatmill/{role}.env", typed=lines)
                target = f"{self.name}-{machine}:/etc/systemd/system/{unit}.service"
                run("docker", "cp", str(ROOT / "deploy" / "systemd" / f"{unit}.service"), target)
            self.inside(machine, "systemctl", "daemon-reload")
            self.inside(machine, "systemctl", "enable", "--now", *units)

    def inside(self, machine: str, *command: str, typed: str | None = None) -> str:
        """A command on a machine, as root; what it prints."""
        return run("docker", "exec", "--interactive", f"{self.name}-{machine}", *command, input=typed).stdout

    def address(self, machine: str) -> str:
        """A machine's address on their network."""
        shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return run("docker", "inspect", "--format", shown, f"{self.name}-{machine}").stdout.strip()

    def oatmill(self, *arguments: str) -> str:
        """A command of oatmill on east, with the operator's key."""
        own = ("--address", self.control, "--keys", "/runs/keys/operator")
        return self.inside("east", "/opt/oatmill/bin/oatmill", *arguments, *own)

    def step(self) -> int:
        """The learner's step; -1 while nobody knows."""
        try:
            status: dict[str, Any] = json.loads(self.oatmill("status", "--json"))
        except AssertionError:
            return -1
        return int(status.get("learner", {}).get("learner_step", -1))

    def state(self, machine: str, unit: str) -> str:
        """Such as `active`, `inactive` or `failed`, with the unit's last result."""
        shown = self.inside(machine, "systemctl", "show", "--property=ActiveState,Result", "--value", unit)
        return "/".join(sorted(shown.split()))

    def kill_rank(self, machine: str) -> None:
        """SIGKILL a machine's rank."""
        listed = run("docker", "top", f"{self.name}-{machine}", "-eo", "pid,args").stdout.splitlines()[1:]
        ranks = [line for line in listed if " learner " in line and "torchrun" not in line and "/bin/sh" not in line]
        assert len(ranks) == 1, listed
        os.kill(int(ranks[0].split()[0]), signal.SIGKILL)

    def until(self, done: Callable[[], Any], within_s: float) -> float:
        """Wait for something; how long it took."""
        return wait_until(done, within_s, self.journals)

    def trains(self, after: int) -> Callable[[], bool]:
        """Whether the learner is five steps further than it was."""
        return lambda: self.step() >= after + 5

    def journals(self) -> str:
        """The last lines of every unit."""
        lines = ["journalctl", "--no-pager", "--lines=25"]
        return "".join(self.inside(machine, *lines, f"--unit={unit}") for machine, units in UNITS.items() for unit in units)

    def remove(self) -> None:
        """Leave nothing."""
        run("docker", "rm", "--force", *(f"{self.name}-{machine}" for machine in UNITS))
        run("docker", "volume", "rm", "--force", self.disk)
        run("docker", "network", "rm", self.network)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """The machines with their units started."""
    file = str(ROOT / "tests" / "cluster" / "systemd.Dockerfile")
    run("docker", "build", "--file", file, "--build-arg", f"IMAGE={built()}", "--tag", IMAGE, str(ROOT / "tests" / "cluster"))
    machines = Machines(f"oatmill-test-systemd-{os.getpid()}")
    try:
        began = time.monotonic()
        machines.start()
        machines.until(lambda: machines.step() >= 0, 180)
        machines.oatmill("scale", "--actors", "2")
        machines.until(machines.trains(0), 180)
        TABLE.append(f"| three machines booted | {time.monotonic() - began:.0f} s |")
        yield machines
    finally:
        machines.remove()
        sys.stdout.write("\n".join(["", "| What | To five more learner steps |", *TABLE, ""]))


def test_a_killed_rank_is_started_again_with_its_peer(machines: Machines) -> None:
    machines.kill_rank("west")
    TABLE.append(f"| a rank killed | {machines.until(machines.trains(machines.step()), 180):.0f} s |")


@pytest.mark.parametrize("machine", UNITS)
def test_a_machine_that_reboots_comes_back(machines: Machines, machine: str) -> None:
    began = time.monotonic()
    run("docker", "restart", "--time", "60", f"{machines.name}-{machine}")
    machines.until(machines.trains(machines.step()), 240)  # steps from before the reboot do not count
    TABLE.append(f"| {machine} rebooted | {time.monotonic() - began:.0f} s |")
    assert {machines.state(machine, unit) for unit in UNITS[machine]} == {"active/success"}


def test_units_end_with_the_run(machines: Machines) -> None:
    machines.oatmill("stop")
    for machine, unit in (("east", "oatmill-rank"), ("west", "oatmill-rank"), ("south", "oatmill-join")):
        machines.until(lambda: machines.state(machine, unit) == "inactive/success", 90)  # noqa: B023 (called here, at once)
    machines.inside("east", "systemctl", "stop", "oatmill-replay")
    assert machines.state("east", "oatmill-replay") == "inactive/success"
