"""The Prometheus metrics of the replay server: one collector that reads the hub's numbers at each scrape.

Nothing is counted here: ingest and the hub have the counters. Every value of a fixed set of labels
exists from the start, at 0, so that rates and alerts see the first event.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from oatmill.process.metrics import ProcessCollector
from protocol.wire.reasons import REJECTED_REASONS
from replay.histogram import LAG_BUCKETS, SECONDS_BUCKETS
from replay.store.snapshot_saver import OUTCOMES as SNAPSHOT_OUTCOMES

OUTCOMES = (
    "produced",
    "accepted",
    "trained",
    "replayed",
    "stale",
    "evicted",
    "rejected",
    "rolled_back",
    "duplicate",
    "unsent_at_death",
    "lost",
)
PLACES = ("queued", "in_flight")


@dataclass(frozen=True)
class HubNumbers:
    """The hub's numbers at one moment. The HTTP thread reads it; the hub's loop replaces it as a whole."""

    report: Mapping[str, Any]  # replay.ingest.core.IngestCore.report
    rejected: Mapping[str, int]
    live: int = 0
    desired: int = 0
    expired: int = 0
    restarts: int = 0
    weights_bytes: int = 0
    publish: Mapping[str, Any] | None = None  # replay.histogram.Histogram.to_dict
    apply_lag: Mapping[str, Any] | None = None
    auth_restarts: int = 0  # of the handlers of keys of both processes
    stopped: bool = False  # the run is over: its budget is spent, or somebody has stopped it
    actors: Mapping[str, float] = field(default_factory=lambda: {"cpu_seconds": 0.0, "resident_memory_bytes": 0.0})


class ReplayCollector(Collector):
    """Converts the hub's numbers to Prometheus's format.

    Args:
        numbers: returns the newest numbers.
    """

    def __init__(self, numbers: Callable[[], HubNumbers]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the replay server."""
        numbers = self._numbers()
        fleet = numbers.report.get("fleet", {})
        yield from _trajectories(numbers, fleet)
        yield from _queue(numbers.report, fleet.get("queue", {}))
        yield from _buffer(fleet.get("buffer", {}), numbers.report.get("buffer_snapshots", {}))
        yield from _log(numbers.report.get("log", {}))
        yield from _episodes(numbers.report.get("windows", {}), fleet)
        yield from _actors(numbers)
        yield from _weights(numbers)
        stopped = "1 once the run is over: its budget is spent, or it was stopped."
        yield GaugeMetricFamily("oatmill_run_stopped", stopped, int(numbers.stopped))


def _trajectories(numbers: HubNumbers, fleet: Mapping[str, Any]) -> Iterator[Metric]:
    ledger = fleet.get("ledger", {})
    counts = {**ledger, **ledger.get("dropped", {}), "accepted": numbers.report.get("accepted", 0)}
    family = CounterMetricFamily("oatmill_trajectories", "Trajectories by outcome.", labels=["outcome"])
    for outcome in OUTCOMES:
        family.add_metric([outcome], counts.get(outcome, 0))
    yield family
    pending = GaugeMetricFamily(
        "oatmill_trajectories_pending", "Trajectories that are queued or in flight, by place.", labels=["place"]
    )
    for place in PLACES:
        pending.add_metric([place], ledger.get(place, 0))
    yield pending
    rejected = CounterMetricFamily("oatmill_rejected", "Bad messages by reason.", labels=["reason"])
    for reason in REJECTED_REASONS:
        rejected.add_metric([reason], numbers.rejected.get(reason, 0))
    yield rejected
    restarts = "Restarts of the handler of keys after a failure; should be 0."
    yield CounterMetricFamily("oatmill_auth_restarts", restarts, numbers.auth_restarts)
    yield CounterMetricFamily("oatmill_env_steps", "Steps of single agents in stored trajectories.", fleet.get("env_steps", 0))


def _queue(report: Mapping[str, Any], queue: Mapping[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily("oatmill_replay_items", "Trajectories that wait in the queue.", queue.get("trajectories", 0))
    yield GaugeMetricFamily(
        "oatmill_replay_capacity_items", "The limit of credit and queue together.", queue.get("capacity", 0)
    )
    yield GaugeMetricFamily("oatmill_replay_credit_items", "Trajectories that actors may send now.", report.get("credit", 0))
    yield GaugeMetricFamily("oatmill_replay_bytes", "Memory of waiting trajectories.", queue.get("bytes", 0))
    yield _histogram(
        "oatmill_replay_age_seconds", "Time from a trajectory's arrival until it is handed to the learner.", report.get("age")
    )
    yield _histogram("oatmill_transit_seconds", "Time from the end of an unroll until its arrival.", report.get("transit"))
    lag = "Policy versions between the newest one and a trajectory's, when it is handed to the learner."
    yield _histogram("oatmill_policy_lag_versions", lag, report.get("lag"), LAG_BUCKETS)
    yield _histogram(
        "oatmill_policy_lag_stored_versions",
        "Policy versions between the newest one and a trajectory's, when it is stored.",
        report.get("lag_stored"),
        LAG_BUCKETS,
    )


def _buffer(buffer: Mapping[str, Any], snapshots: Mapping[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily("oatmill_replay_buffer_items", "Trajectories in the replay buffer.", buffer.get("trajectories", 0))
    yield GaugeMetricFamily("oatmill_replay_buffer_capacity_items", "Capacity of the replay buffer.", buffer.get("capacity", 0))
    yield GaugeMetricFamily("oatmill_replay_buffer_bytes", "Memory of the replay buffer.", buffer.get("bytes", 0))
    saved = CounterMetricFamily(
        "oatmill_replay_buffer_snapshots", "Snapshots of the replay buffer, by outcome.", labels=["outcome"]
    )
    for outcome in SNAPSHOT_OUTCOMES:
        saved.add_metric([outcome], snapshots.get("outcomes", {}).get(outcome, 0))
    yield saved
    took = "Duration of writing the last snapshot."
    yield GaugeMetricFamily("oatmill_replay_buffer_snapshot_seconds", took, snapshots.get("seconds", 0.0))


def _log(log: Mapping[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily("oatmill_log_bytes", "Size of the log on the disk.", log.get("bytes", 0))
    stalled = "1 while the log cannot be written, so that nothing is acknowledged."
    yield GaugeMetricFamily("oatmill_log_stalled", stalled, int(log.get("stalled", False)))
    damaged = "How often the log, or a file beside it, was found damaged; should be 0."
    yield CounterMetricFamily("oatmill_log_damaged", damaged, log.get("damaged", 0))
    missing = "Records that were missing in the log."
    yield CounterMetricFamily("oatmill_log_records_missing", missing, log.get("missing", 0))
    yield _histogram("oatmill_log_commit_seconds", "Duration of writing and syncing a group of records.", log.get("commit"))


def _histogram(
    name: str, text: str, values: Mapping[str, Any] | None, bounds: tuple[float, ...] = SECONDS_BUCKETS
) -> HistogramMetricFamily:
    found = values or {"bounds": bounds, "cumulative": [0] * (len(bounds) + 1), "sum": 0.0}
    edges = [*(str(float(bound)) for bound in found["bounds"]), "+Inf"]
    return HistogramMetricFamily(name, text, list(zip(edges, found["cumulative"], strict=True)), found["sum"])


def _episodes(windows: Mapping[str, Any], fleet: Mapping[str, Any]) -> Iterator[Metric]:
    yield CounterMetricFamily("oatmill_episodes", "Episodes that ended.", fleet.get("episodes", 0))
    yield _summary("oatmill_episode_return", "Unscaled return; quantiles are of the last 100 episodes.", windows)
    yield _summary("oatmill_episode_length", "Steps of an episode; quantiles are of the last 100.", windows)
    own = "The environment's own numbers of an episode, from its info: means of the last 100 episodes."
    family = GaugeMetricFamily("oatmill_episode_info", own, labels=["name"])
    for name, mean in fleet.get("statistics", {}).items():
        family.add_metric([name], mean)
    yield family


def _summary(name: str, text: str, windows: Mapping[str, Any]) -> Metric:
    found = windows.get(name.removeprefix("oatmill_"), {"quantiles": {}, "sum": 0.0, "count": 0})
    family = Metric(name, text, "summary")
    for quantile, value in found["quantiles"].items():
        family.add_sample(name, {"quantile": quantile}, float("nan") if value is None else value)
    family.add_sample(f"{name}_count", {}, found["count"])
    family.add_sample(f"{name}_sum", {}, found["sum"])
    return family


def _actors(numbers: HubNumbers) -> Iterator[Metric]:
    yield GaugeMetricFamily("oatmill_actors_live", "Actors that send heartbeats.", numbers.live)
    yield GaugeMetricFamily("oatmill_actors_expected", "Target number of actors.", numbers.desired)
    slow, silent = (numbers.report.get(name, 0) for name in ("slow_actors", "silent_actors"))
    yield GaugeMetricFamily("oatmill_actors_slow", "Actors that take more than twice as long as the fleet for a block.", slow)
    yield GaugeMetricFamily("oatmill_actors_silent", "Actors that send heartbeats and no data while others do.", silent)
    yield CounterMetricFamily("oatmill_actors_expired", "How often an actor stopped sending heartbeats.", numbers.expired)
    yield CounterMetricFamily(
        "oatmill_actor_restarts", "Actors that replaced an earlier one with the same id.", numbers.restarts
    )


def _weights(numbers: HubNumbers) -> Iterator[Metric]:
    yield CounterMetricFamily("oatmill_weights_bytes", "Bytes of weights sent to actors.", numbers.weights_bytes)
    yield _histogram(
        "oatmill_weights_publish_seconds", "Time from the learner's push until the hub has the weights.", numbers.publish
    )
    yield _histogram(
        "oatmill_weights_apply_lag_seconds",
        "Time from the hub's receipt until an actor has the verified weights.",
        numbers.apply_lag,
    )


class UpCollector(Collector):
    """`oatmill_up{role}` of one role.

    Args:
        role: the role's name.
        healthy: returns whether the role makes progress.
    """

    def __init__(self, role: str, healthy: Callable[[], bool]) -> None:
        self._role, self._healthy = role, healthy

    def collect(self) -> Iterator[Metric]:
        """Whether the role makes progress."""
        family = GaugeMetricFamily("oatmill_up", "1 while the role makes progress.", labels=["role"])
        family.add_metric([self._role], int(self._healthy()))
        yield family


def registry_of(numbers: Callable[[], HubNumbers], healthy: Callable[[], bool], *, ingest: int) -> CollectorRegistry:
    """Return a new registry, so that metrics which libraries register are not served.

    Args:
        numbers: returns the newest numbers.
        healthy: returns whether the role makes progress.
        ingest: the process id of ingest.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReplayCollector(numbers))
    registry.register(UpCollector("replay", healthy))
    pids = {"hub": os.getpid(), "ingest": ingest}
    registry.register(ProcessCollector(pids, reported=lambda: {"actors": numbers().actors}))
    return registry
