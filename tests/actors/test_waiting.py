"""What an actor looks after while it waits, and while its environment works."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from actors.actor import Actor
from benchmarks.fleet import block


class Receiver:
    """Notes which version it was told to go on with."""

    def __init__(self) -> None:
        self.pumped: list[int] = []

    def pump(self, newest_version: int) -> None:
        self.pumped.append(newest_version)


def actor_with(receiver: Receiver, **sender: Any) -> Actor:
    state = SimpleNamespace(stop=False, fenced=False, policy_version=7)
    nothing: Any = lambda *_, **__: None  # noqa: E731
    parts: dict[str, Any] = {
        "control": SimpleNamespace(state=state, heartbeat=nothing, rejoined=0, refusal=None),
        "sender": SimpleNamespace(pump=nothing, newest_version=9, forgotten=0, produced=0, evicted=0, **sender),
        "receiver": receiver,
        "policy": SimpleNamespace(version=3),
        "unroller": SimpleNamespace(env_steps=0, episodes=0),
        "stop": SimpleNamespace(is_set=False),
    }
    return Actor(**parts)


def test_weights_are_pulled_while_an_actor_waits_for_credit() -> None:
    receiver, waits = Receiver(), iter([False, False, False])

    def wait_ready(_timeout_s: float) -> bool:
        return next(waits)

    actor = actor_with(receiver, wait_ready=wait_ready)
    try:
        actor.act()
    except StopIteration:
        assert receiver.pumped == [9] * 4, "the newest version that anybody has told of, before each wait"
    else:
        raise AssertionError("it waits for credit")


def test_weights_are_pulled_between_env_steps(monkeypatch: Any) -> None:
    receiver = Receiver()
    monkeypatch.setattr("actors.actor.BETWEEN_TURNS_S", 0.0)
    actor = actor_with(receiver)
    assert all(actor._between_steps() for _ in range(5))
    assert len(receiver.pumped) == 5


def test_the_hub_is_told_at_once_of_the_first_unroll_and_at_the_end_and_else_when_it_is_due() -> None:
    ready = iter([True, True, True, False])
    offered: list[Any] = []
    forced: list[tuple[int, int, int]] = []
    actor = actor_with(Receiver(), wait_ready=lambda _timeout_s: next(ready))
    state: Any = actor._control.state
    unroller: Any = actor._unroller
    parts: dict[str, Any] = {"_policy": SimpleNamespace(version=9), "_swap_weights": lambda **_: None}
    for name, part in parts.items():
        setattr(actor, name, part)

    sender: Any = actor._sender

    def offer(block: Any) -> None:
        offered.append(block)
        sender.produced += 1

    def collect(_goes_on: Any) -> Any:
        unroller.env_steps += 64
        state.stop = len(offered) == 2
        return replace(block(), counters={})

    def heartbeat(report: dict[str, Any], *, force: bool = False) -> None:
        if force:
            forced.append((len(offered), report["env_steps"], report["unrolls"]))

    unroller.collect, sender.offer = collect, offer
    control: Any = actor._control
    control.heartbeat = heartbeat
    actor.act()
    actor.report()
    assert len(offered) == 3
    assert forced == [(1, 64, 1), (3, 192, 3)]
