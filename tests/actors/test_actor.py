"""One actor process between a real replay server and this test, which plays the learner."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from actors.__main__ import main
from actors.actor import ActorConfig, environment_seed, policy_seed
from actors.settings import ActorSettings, CogsEnv, EnvSettings, FactoryEnv, GymnasiumEnv
from agent.model import AgentModel, acting_arrays
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from learner.settings import TrainerSettings
from oatmill.children.family import Guardian
from oatmill.process.exit_codes import USER_CODE_FAILED
from oatmill.settings.base import MetricsSettings
from oatmill.settings.flat import joining_config
from protocol.channels import BatchClient, ControlClient, Delivery, WeightsPublisher, Welcome
from protocol.data.weights import Weights
from protocol.wire.deadlines import DEAD_AFTER_S
from replay.settings import ReplaySettings
from runner.local.child import Child
from runner.local.commands import actor_command
from runner.local.forking import Forking

ROOT = Path(__file__).parents[2]
ENVS, STEPS = 4, 8


def config_of(env: EnvSettings | None = None, **agent: Any) -> dict[str, Any]:
    """The roots of a resolved config.yaml."""
    roots = {
        "env": env or GymnasiumEnv(id="CartPole-v1"),
        "agent": AgentSettings(hidden_sizes=(8,), num_bins=11, core_size=4, **agent),
        "actors": ActorSettings(count=1, envs_per_actor=ENVS, unroll_length=STEPS),
        "replay": ReplaySettings(),
        "trainer": TrainerSettings(batch_size=2 * ENVS),
        "metrics": MetricsSettings(),
    }
    return {name: settings.model_dump(mode="json") for name, settings in roots.items()}


RUDE = "tests.actors.environments.rude_environments:make"


def failing(how: str) -> FactoryEnv:
    return FactoryEnv(factory="tests.actors.environments.toy_environments:Fails", kwargs={"how": how})


def rude(how: str) -> FactoryEnv:
    return FactoryEnv(factory=RUDE, kwargs={"how": how, "when": "step"})


@dataclass
class Run:
    """A replay server in a folder of its own, and the means to add the other roles."""

    folder: Path
    stack: ExitStack
    forking: Forking

    @property
    def address(self) -> str:
        return f"ipc://{self.folder}/control"

    def launch(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        log = self.stack.enter_context((self.folder / f"{module}-{time.monotonic_ns()}.log").open("w"))
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--config", str(self.folder / "config.yaml"), *arguments],
            stderr=log,
            cwd=ROOT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.stack.callback(end, process)
        return process

    def actor(self, actor_id: int = 0) -> Child:
        """An actor, forked as `oatmill train` does it."""
        command = actor_command(self.folder / "config.yaml", address=self.address, number=actor_id, log_level="info")
        deadline = time.monotonic() + 60
        while (way := self.forking.way(command)) is None:
            assert time.monotonic() < deadline, "the fork server is not ready"
            time.sleep(0.02)
        log = self.folder / f"actors-{time.monotonic_ns()}.log"
        child = Child("actor", actor_id, command, log=log, threads=1, start=way)
        self.stack.callback(child.kill)
        return child

    def actor_errors(self) -> list[str]:
        logs = sorted(self.folder.glob("actors-*.log"))
        return [line for log in logs for line in log.read_text().splitlines() if line.startswith("oatmill: error:")]

    def join(self) -> ControlClient:
        config = joining_config(yaml.safe_load((self.folder / "config.yaml").read_text()))
        control = ControlClient(self.address, role="learner", description={"config": config, "rank": 0, "world": 1})
        return self.stack.enter_context(closing(control))


def end(process: subprocess.Popen[str]) -> None:
    """Stop a process, unless it has ended."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def wait_until_it_listens(run: Run) -> None:
    operator = ControlClient(run.address, role="operator", description={})
    with closing(operator):
        operator.request("status", {}, timeout_s=60)


def code_of(actor: Child) -> int | None:
    """The exit code, once the actor has ended."""
    assert actor.wait(time.monotonic() + 60), "the actor has not ended"
    return actor.exit_code


@pytest.fixture(scope="module")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    with closing(Guardian()) as guardian, closing(Forking(tmp_path_factory.mktemp("forking") / "log", guardian)) as made:
        yield made


@pytest.fixture
def run(request: pytest.FixtureRequest, forking: Forking) -> Iterator[Run]:
    # A socket's path has at most 107 bytes; pytest's own folders would be too long.
    with TemporaryDirectory(prefix="oatmill-") as name, ExitStack() as stack:
        run = Run(Path(name), stack, forking)
        settings = getattr(request, "param", {})
        (run.folder / "config.yaml").write_text(yaml.safe_dump(config_of(**settings)))
        run.launch("replay", "--run-dir", name, "--listen", f"ipc://{name}")
        wait_until_it_listens(run)
        yield run


class Learner:
    """Publishes versions and takes batches, without learning anything."""

    def __init__(self, run: Run) -> None:
        self.control = run.join()
        welcome = self.control.join(30, wait_for_spaces=True)
        assert welcome.spaces is not None
        self.publisher = run.stack.enter_context(closing(WeightsPublisher(welcome.endpoints["weights"], welcome=welcome)))
        client = BatchClient(welcome.endpoints["batches"], welcome=welcome, rank=0, world=1, batch_size_total=2 * ENVS)
        self.batches = run.stack.enter_context(closing(client))
        agent = AgentSettings.model_validate(yaml.safe_load((run.folder / "config.yaml").read_text())["agent"])
        self.model = AgentModel(AgentSpec(welcome.spaces, agent))

    def publish(self, version: int) -> None:
        self.publisher.push(Weights.pack(version, acting_arrays(self.model), "bfloat16"))
        assert self.publisher.flush(60)

    def batch(self, step: int) -> Delivery:
        self.batches.request(step)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            self.control.heartbeat({"learner_step": step, "policy_version": step})
            delivery = self.batches.poll(0.2)
            if delivery is not None:
                return delivery
        raise AssertionError("no batch came within 30 s")


def test_an_actor_collects_with_the_newest_weights_until_the_run_stops(run: Run) -> None:
    actor = run.actor()
    learner = Learner(run)
    learner.publish(0)
    for version in range(8):
        delivery = learner.batch(version)
        batch = delivery.batch
        assert batch.observations.shape == (2 * ENVS, STEPS + 1, 4)
        assert np.abs(batch.observations[..., 0]).max() <= 4.8
        ends = (batch.terminated | batch.truncated)[:, :-1]
        # Within an episode CartPole moves by its speed: x' = x + 0.02 v. After an end it starts near 0.
        moved = batch.observations[:, 1:-1, 0] - batch.observations[:, :-2, 0] - 0.02 * batch.observations[:, :-2, 1]
        np.testing.assert_allclose(moved[~ends], 0, atol=1e-6)
        assert np.all(np.abs(batch.observations[:, 1:-1][ends]) <= 0.05)
        assert np.all(batch.rewards == 1)
        # One batch in training and one in the queue, or in the making, make the data two versions old at most.
        assert np.all((batch.policy_version <= version) & (batch.policy_version >= version - 2))
        learner.publish(version + 1)
        learner.batches.consumed(batch.batch_id, version + 1)
    assert delivery.fleet["env_steps"] >= 7 * 2 * ENVS * STEPS
    learner.control.request("stop", {})
    assert code_of(actor) == 0
    assert run.actor_errors() == []


@pytest.mark.parametrize("run", [{"env": CogsEnv(max_steps=8), "core": "gru"}], indirect=True)
def test_final_observations_core_states_and_statistics_arrive(run: Run) -> None:
    # One copy has 4 agents here: ENVS copies make 16 rows, two batches in one unroll.
    run.actor()
    learner = Learner(run)
    learner.publish(0)
    fleet: dict[str, Any] = {}
    for step in range(8):
        delivery = learner.batch(step)
        batch, fleet = delivery.batch, delivery.fleet
        assert batch.core_state.shape == (2 * ENVS, 4)
        cut = list(zip(*np.nonzero(batch.truncated), strict=True))
        assert sorted(zip(batch.final_trajectory.tolist(), batch.final_step.tolist(), strict=True)) == sorted(cut)
        assert len(cut) >= 2 * ENVS  # every row's episode is cut every 8 steps
        assert not batch.terminated.any()
        learner.batches.consumed(batch.batch_id, 0)
    assert fleet["episodes"] > 0
    assert set(fleet["statistics"]) == {"hearts_created", "hearts_deposited"}


def test_sigterm_ends_an_actor_that_waits_for_weights_and_one_that_works(run: Run) -> None:
    waiting, working = run.actor(0), run.actor(1)
    learner = Learner(run)
    waiting.terminate()
    assert code_of(waiting) == 0
    learner.publish(0)
    learner.batch(0)
    working.terminate()
    assert code_of(working) == 0
    assert run.actor_errors() == []


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_sigterm_ends_an_actor_that_no_hub_answers(forking: Forking) -> None:
    with TemporaryDirectory(prefix="oatmill-") as name, ExitStack() as stack:
        run = Run(Path(name), stack, forking)
        (run.folder / "config.yaml").write_text(yaml.safe_dump(config_of()))
        lonely = run.actor()
        deadline = time.monotonic() + 60
        while not catches(lonely.pid, signal.SIGTERM):  # an interpreter that has not come that far just dies of it
            assert time.monotonic() < deadline
            time.sleep(0.05)
        lonely.terminate()
        assert code_of(lonely) == 0


def test_actors_have_seeds_of_their_own_and_a_run_has_them_again() -> None:
    def config(seed: int, actor_id: int | None) -> ActorConfig:
        return ActorConfig(
            env=GymnasiumEnv(id="CartPole-v1"),
            agent=AgentSettings(),
            actors=ActorSettings(seed=seed),
            joining={},
            address="",
            actor_id=actor_id,
        )

    seeds = [environment_seed(config(seed, actor)) for seed in (0, 1) for actor in (0, 1, None, None)]
    assert len(set(seeds)) == 8
    assert environment_seed(config(1, 1)) == seeds[5]
    joined = [Welcome(actor, incarnation, {}, None, (), -1) for actor in (0, 1) for incarnation in (1, 2)]
    assert len({policy_seed(config(0, None), welcome) for welcome in joined}) == 4


def test_an_actor_that_is_well_keeps_its_place_and_one_that_hung_leaves_when_another_has_taken_it(run: Run) -> None:
    former = run.actor(0)
    learner = Learner(run)
    learner.publish(0)
    learner.batch(0)
    assert code_of(run.actor(0)) == 1
    (error,) = run.actor_errors()
    assert "(identity): actor 0 is part of the run and active" in error
    os.kill(former.pid, signal.SIGSTOP)
    time.sleep(DEAD_AFTER_S + 0.2)
    run.actor(0)
    with closing(ControlClient(run.address, role="operator", description={})) as operator:
        deadline = time.monotonic() + 60
        while operator.request("status", {})["actors"][0]["incarnation"] < 2:
            assert time.monotonic() < deadline, "its successor has not joined"
            time.sleep(0.05)
    os.kill(former.pid, signal.SIGCONT)
    assert code_of(former) == 1
    error = run.actor_errors()[0]
    assert re.search("rejected this actor|refused this process", error), error


def actors_at(address: str) -> list[int]:
    """The actors that work for the hub at an address."""
    found = psutil.process_iter(["pid", "cmdline"])
    return [one.info["pid"] for one in found if {"actors", address} <= set(one.info["cmdline"] or ())]


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (
            {"env": failing("raises in step")},
            r"env\.factory=tests\.actors\.environments\.toy_environments:Fails raised in step: "
            r"RuntimeError: the physics exploded "
            r"\(tests/actors/environments/toy_environments\.py:\d+, in step\)",
        ),
        (
            {"env": rude("leaves")},
            r"the environment's code called sys\.exit\(0\) \(tests/actors/environments/rude_environments\.py:\d+, in leaves\)",
        ),
        (
            {"env": rude("cancels")},
            r"the environment's code raised CancelledError: the game server is gone "
            r"\(tests/actors/environments/rude_environments\.py:\d+, in cancels\)",
        ),
        (
            {"env": rude("forks")},
            r"env\.factory=tests\.actors\.environments\.rude_environments:make forked this process, and the copy did not end; "
            r"call os\._exit in it \(tests/actors/environments/rude_environments\.py:\d+, in forks\)",
        ),
        (
            {"env": rude("forks_and_raises")},
            r".* forked this process, and the copy did not end; "
            r"call os\._exit in it \(tests/actors/environments/rude_environments\.py:\d+, in forks_and_raises\)",
        ),
    ],
    indirect=["run"],
)
def test_an_environment_that_raises_or_leaves_later_fails_the_actor_in_one_line(run: Run, says: str) -> None:
    actor = run.actor()
    Learner(run).publish(0)
    assert code_of(actor) == USER_CODE_FAILED
    (error,) = run.actor_errors()
    assert re.fullmatch(f"oatmill: error: {says}", error)
    (log,) = run.folder.glob("actors-*.log")
    assert "Traceback" not in log.read_text()
    deadline = time.monotonic() + 10
    while left := actors_at(run.address):  # copies of the actor that the environment has made
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize("run", [{"env": rude("leaves_at_once")}], indirect=True)
def test_an_environment_that_calls_os_exit_is_named_before_its_process_ends(run: Run) -> None:
    actor = run.actor()
    Learner(run).publish(0)
    assert code_of(actor) == USER_CODE_FAILED
    (error,) = run.actor_errors()
    place = r"\(tests/actors/environments/rude_environments\.py:\d+, in leaves_at_once\)"
    assert re.fullmatch(rf"oatmill: error: the environment's code called os\._exit\(0\) {place}", error)


@pytest.mark.parametrize("run", [{"env": rude("forks_well")}], indirect=True)
def test_an_environment_may_fork_if_the_copy_ends_itself(run: Run) -> None:
    run.actor()
    learner = Learner(run)
    learner.publish(0)
    learner.batch(0)
    assert run.actor_errors() == []


def test_settings_that_differ_from_the_runs_raise_an_error_with_their_name(run: Run) -> None:
    config = config_of()
    config["actors"]["unroll_length"] = STEPS + 1
    other = run.folder / "other.yaml"
    other.write_text(yaml.safe_dump(config))
    actor = run.launch("actors", "--address", run.address, "--config", str(other))
    assert actor.wait(60) == 1
    assert "actors.unroll_length: the run has 8, this process has 9" in run.actor_errors()[0]


def test_an_environment_that_breaks_its_promises_at_once_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config_of(failing("nan in reset"))))
    done = subprocess.run(
        [sys.executable, "-m", "actors", "--config", str(path), "--address", f"ipc://{tmp_path}/nobody"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "oatmill: error: env.factory=tests.actors.environments.toy_environments:Fails: expected finite first observations, "
        "got NaN or infinity (nan at index [0, 0], the row first); correct the environment's reset\n"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("env: [", "expected a run's config.yaml, got "),
        ("just words", "expected a run's config.yaml, got str at its top"),
        ("env: {kind: cogs}\nagent: {}", " lacks actors; it is the config.yaml that `oatmill train` writes"),
        (
            "env: {kind: cogs, num_cogs: 25}\nagent: {}\nactors: {}",
            "env.num_cogs must be a whole number from 1 to 24, got 25",
        ),
    ],
)
def test_a_config_that_an_actor_cannot_read_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert main(["--config", str(path), "--address", "ipc:///nobody"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("oatmill: error: --config ")
    assert says in error
    assert error.count("\n") == 1
