"""One actor: joins the run, then repeats: wait for credit, load the newest weights, unroll, send."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.base import Environment, name_of
from actors.environments.checks import begin
from actors.environments.make import make_environment
from actors.heartbeat import heartbeat_file
from actors.policy import ActingPolicy
from actors.settings import ActorSettings, EnvSettings
from actors.unroll import Unroller
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from oatmill.children.copies import Copies
from oatmill.errors import PeerLostError, RunError
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.memory import MemoryLimit, resident_memory
from oatmill.process.signals import StopFlag
from oatmill.process.watchdog import Watchdog
from protocol.channels import ControlClient, TrajectorySender, WeightsReceiver, Welcome
from protocol.data.trajectory import Schema
from protocol.security.keys import ClientKeys

log = logging.getLogger("oatmill.actor")

JOIN_TIMEOUT_S = 120.0
JOIN_SLICE_S = 1.0
"""The longest wait for the hub without checking the stop flag."""
WAIT_S = 0.2
"""The longest wait without a heartbeat and without checking the stop flag."""
BETWEEN_TURNS_S = 0.01
"""During an unroll the sockets are served at most this often."""
DRAIN_S = 2.0


@dataclass(frozen=True)
class ActorConfig:
    """The configuration of an actor process.

    Attributes:
        env: the environment's settings.
        agent: the network's settings.
        actors: the actor's settings.
        joining: the settings that must be equal to those of the run's server.
        address: the run's control address.
        discount: gamma, if the learner normalises rewards by the discounted return; None if not.
        actor_id: this actor's number; None lets the hub choose.
        heartbeat: a file to touch while the actor makes progress; None under the local supervisor.
        keys: the keys for the server; None for a server without keys.
    """

    env: EnvSettings
    agent: AgentSettings
    actors: ActorSettings
    joining: Mapping[str, Any]
    address: str
    discount: float | None = None
    actor_id: int | None = None
    heartbeat: Path | None = None
    keys: ClientKeys | None = None


def run(config: ActorConfig, stop: StopFlag) -> None:
    """Act until the run ends or `stop` is set.

    Args:
        config: the actor's configuration.
        stop: set when the process should stop.

    Raises:
        UserError: if the environment cannot be built or its observations do not match its spaces.
        RunError: if the run rejects this actor or is lost, another process has joined with the same
            number, or the environment fails.
    """
    with ExitStack() as stack:
        alive = heartbeat_file(config.heartbeat)
        copies = Copies(name_of(config.env))
        watchdog = stack.enter_context(closing(Watchdog("actor", config.actors.hang_timeout, alive=alive)))
        stack.enter_context(closing(MemoryLimit("actor", config.actors.memory_bytes, setting="actors.memory_bytes")))
        environment = stack.enter_context(closing(_environment(config)))
        # Slow initialisation comes before joining: afterwards the hub expects a heartbeat every few
        # seconds.
        observations, stream = begin(environment)
        copies.check()
        spec = AgentSpec(environment.spaces, config.agent)
        control = stack.enter_context(closing(_control(config, environment, stream)))
        welcome = _join(control, config.address, stop, watchdog.beat, wait_for_encoder=spec.depends_on_device)
        if welcome is None:
            return
        if spec.depends_on_device and welcome.encoder:
            spec = spec.with_encoder(welcome.encoder)
        log.info("joined as actor %d, incarnation %d", welcome.actor_id, welcome.incarnation)
        policy = ActingPolicy(spec, environment.num_rows, policy_seed(config, welcome))
        unroller = Unroller(environment, observations, policy, config.actors.unroll_length, discount=config.discount)
        receiver = stack.enter_context(
            closing(WeightsReceiver(welcome.endpoints["weights"], layout=policy.layout, keys=welcome.keys))
        )
        sender = stack.enter_context(closing(_sender(config, environment, spec, welcome)))
        watchdog.started()
        actor = Actor(
            control=control,
            sender=sender,
            receiver=receiver,
            policy=policy,
            unroller=unroller,
            stop=stop,
            beat=watchdog.beat,
            check=copies.check,
        )
        stack.callback(actor.report)
        stack.callback(copies.check)  # before anything is sent or closed: a copy has the same sockets
        actor.act()
        if not sender.drain(DRAIN_S):
            log.warning("stopping with %d unacknowledged trajectories", sender.unacknowledged)
        log.info("stopping after %d env steps and %d episodes", unroller.env_steps, unroller.episodes)


class Actor:
    """The loop of an actor that has joined.

    Args:
        control: the connection to the hub.
        sender: sends blocks of trajectories.
        receiver: receives weights.
        policy: chooses actions.
        unroller: steps the environment.
        stop: set when the process should stop.
        beat: called regularly, between env steps and while waiting, for the watchdog.
        check: called after every env step; may raise.
    """

    def __init__(
        self,
        *,
        control: ControlClient,
        sender: TrajectorySender,
        receiver: WeightsReceiver,
        policy: ActingPolicy,
        unroller: Unroller,
        stop: StopFlag,
        beat: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._control = control
        self._sender = sender
        self._receiver = receiver
        self._policy = policy
        self._unroller = unroller
        self._stop = stop
        self._beat, self._check = beat, check
        self._next_turn = 0.0
        self._newest, self._heard_at = -1, 0.0
        self._swaps, self._apply_lag_s = 0, 0.0
        self._lost = self._rejoined = self._unrolls = 0

    def act(self) -> None:
        """Collect and send trajectories until the run or the process is to stop."""
        while self._policy.version < 0 and self._goes_on():
            self._swap_weights(wanted=0)
        while self._goes_on():
            if not self._sender.wait_ready(WAIT_S):
                continue
            self._note_newest()  # credit comes with the policy version to use
            self._swap_weights(wanted=self._newest)
            block = self._unroller.collect(self._between_steps)
            if block is not None:
                first = self._unrolls == 0
                self._unrolls += 1
                self._sender.offer(replace(block, counters=self._counters()))
                if first:  # the hub should know soon that a restarted actor works
                    self._control.heartbeat(self._report(), force=True)

    def report(self) -> None:
        """Tell the hub what this actor has done. If the environment has failed, that decides whether the run goes on."""
        with suppress(PeerLostError):
            self._control.heartbeat(self._report(), force=True)

    def _goes_on(self) -> bool:
        """Serve the sockets; returns whether to go on.

        Raises:
            RunError: if another process has joined with the same actor number.
        """
        self._beat()
        self._next_turn = time.monotonic() + BETWEEN_TURNS_S
        self._sender.pump()
        self._control.heartbeat(self._report())
        if self._control.rejoined > self._rejoined:
            self._rejoined = self._control.rejoined
            self._sender.greet()
        self._note_newest()
        self._receiver.pump(self._newest)
        if self._sender.forgotten > self._lost:
            log.warning("the replay server was replaced and has lost %d trajectories", self._sender.forgotten - self._lost)
            self._lost = self._sender.forgotten
        state = self._control.state
        if state.stop or self._stop.is_set:
            return False
        if state.fenced:
            reason, detail = self._control.refusal or ("fenced", "another process has joined as this actor")
            raise RunError(f"the hub has rejected this actor ({reason}): {detail}")
        return True

    def _note_newest(self) -> None:
        newest = max(self._control.state.policy_version, self._sender.newest_version)
        if newest > self._newest:
            self._newest, self._heard_at = newest, time.monotonic()

    def _between_steps(self) -> bool:
        self._check()
        return not self._stop.is_set if time.monotonic() < self._next_turn else self._goes_on()

    def _swap_weights(self, *, wanted: int) -> None:
        """Load the newest weights; wait for the announced version, which arrives after its credit."""
        weights = self._receiver.poll(wanted, WAIT_S)
        if weights is None:
            return
        self._policy.load(weights)
        self._swaps += 1
        self._apply_lag_s += time.monotonic() - self._heard_at if self._heard_at else 0.0
        if self._swaps == 1:
            log.info("acting with policy version %d", weights.version)

    def _counters(self) -> dict[str, float]:
        return {
            "env_steps": float(self._unroller.env_steps),
            "episodes": float(self._unroller.episodes),
            "weights_swaps": float(self._swaps),
            "weights_apply_lag_seconds": self._apply_lag_s,  # summed over the swaps
        }

    def _report(self) -> dict[str, Any]:
        return {
            "env_steps": self._unroller.env_steps,
            "episodes": self._unroller.episodes,
            "policy_version": self._policy.version,
            "unrolls": self._unrolls,
            "produced": self._sender.produced,
            "evicted": self._sender.evicted,
            "cpu_milliseconds": round(1000 * time.process_time()),
            "resident_memory_bytes": resident_memory(),
        }


def _environment(config: ActorConfig) -> Environment:
    copies, seed = config.actors.envs_per_actor, environment_seed(config)
    return make_environment(config.env, copies=copies, seed=seed, first_index=(config.actor_id or 0) * copies)


def _join(
    control: ControlClient, address: str, stop: StopFlag, beat: Callable[[], None], *, wait_for_encoder: bool
) -> Welcome | None:
    """Join the run; None if it is over, or if `stop` was set before.

    Args:
        control: the connection to the hub.
        address: the hub's address, for messages.
        stop: set when the process should stop.
        beat: called regularly.
        wait_for_encoder: ask until the learner has joined, so that `Welcome.encoder` is known.
    """
    clock = AwakeClock()
    deadline = clock.now() + JOIN_TIMEOUT_S
    while not stop.is_set and not control.state.stop:
        beat()
        try:
            welcome = control.join(JOIN_SLICE_S)
        except PeerLostError:
            if clock.now() > deadline:
                raise PeerLostError(
                    f"no hub answered at {address} within {JOIN_TIMEOUT_S:.0f} s; is `oatmill replay` running there?"
                ) from None
            continue
        if welcome.encoder is not None or not wait_for_encoder:
            return welcome
        deadline = clock.now() + JOIN_TIMEOUT_S
        time.sleep(WAIT_S)
    return None


def environment_seed(config: ActorConfig) -> int:
    """The seed of an actor's environments: different for each actor id, reproducible for each run seed.

    If the hub chooses the actor id, it is not known yet, and the seed is random.
    """
    if config.actor_id is None:
        return secrets.randbits(64)
    return _mix(config.actors.seed, config.actor_id)


def policy_seed(config: ActorConfig, welcome: Welcome) -> int:
    """The seed of an actor's sampled actions.

    It changes when an actor restarts, so that it does not repeat the same first episodes.
    """
    return _mix(config.actors.seed, welcome.actor_id, welcome.incarnation)


def _mix(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _control(config: ActorConfig, environment: Environment, stream: str) -> ControlClient:
    description = {
        "config": dict(config.joining),
        "spaces": environment.spaces.to_dict(),
        "episode_statistics": list(environment.episode_statistics),
        "rows": environment.num_rows,
        "stream": stream,
    }
    return ControlClient(config.address, role="actor", description=description, actor_id=config.actor_id, keys=config.keys)


def _sender(config: ActorConfig, environment: Environment, spec: AgentSpec, welcome: Welcome) -> TrajectorySender:
    schema = Schema.of(
        environment.spaces,
        core_state_size=spec.core_state_size,
        episode_statistics=environment.episode_statistics,
        discounted_return=config.discount is not None,
    )
    return TrajectorySender(
        welcome.endpoints["data"],
        welcome=welcome,
        schema=schema,
        rows=environment.num_rows,
        when_full=config.actors.when_full,
        compression=config.actors.compression,
    )
