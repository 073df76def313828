from __future__ import annotations

import os

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from protocol.wire.reasons import REJECTED_REASONS
from replay.hub.metrics import OUTCOMES, HubNumbers, registry_of
from tests.replay.blocks import block
from tests.replay.conversation import Conversation


def samples(numbers: HubNumbers) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What is served, by name and labels."""
    text = generate_latest(registry_of(lambda: numbers, lambda: True, ingest=os.getppid())).decode()
    families = text_string_to_metric_families(text)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


NAMES = {
    "oatmill_log_damaged_total",
    "oatmill_log_records_missing_total",
    "oatmill_trajectories_total",
    "oatmill_trajectories_pending",
    "oatmill_rejected_total",
    "oatmill_auth_restarts_total",
    "oatmill_env_steps_total",
    "oatmill_episodes_total",
    "oatmill_episode_return_count",
    "oatmill_episode_return_sum",
    "oatmill_episode_length_count",
    "oatmill_episode_length_sum",
    "oatmill_policy_lag_versions_bucket",
    "oatmill_policy_lag_versions_count",
    "oatmill_policy_lag_versions_sum",
    "oatmill_policy_lag_stored_versions_bucket",
    "oatmill_policy_lag_stored_versions_count",
    "oatmill_policy_lag_stored_versions_sum",
    "oatmill_replay_items",
    "oatmill_replay_capacity_items",
    "oatmill_replay_credit_items",
    "oatmill_replay_bytes",
    "oatmill_replay_buffer_items",
    "oatmill_replay_buffer_capacity_items",
    "oatmill_replay_buffer_bytes",
    "oatmill_replay_buffer_snapshots_total",
    "oatmill_replay_buffer_snapshot_seconds",
    "oatmill_log_bytes",
    "oatmill_log_stalled",
    "oatmill_log_commit_seconds_bucket",
    "oatmill_log_commit_seconds_count",
    "oatmill_log_commit_seconds_sum",
    "oatmill_replay_age_seconds_bucket",
    "oatmill_replay_age_seconds_count",
    "oatmill_replay_age_seconds_sum",
    "oatmill_actors_live",
    "oatmill_actors_expected",
    "oatmill_run_stopped",
    "oatmill_actors_slow",
    "oatmill_actors_silent",
    "oatmill_actors_expired_total",
    "oatmill_actor_restarts_total",
    "oatmill_transit_seconds_bucket",
    "oatmill_transit_seconds_count",
    "oatmill_transit_seconds_sum",
    "oatmill_weights_bytes_total",
    "oatmill_weights_publish_seconds_bucket",
    "oatmill_weights_publish_seconds_count",
    "oatmill_weights_publish_seconds_sum",
    "oatmill_weights_apply_lag_seconds_bucket",
    "oatmill_weights_apply_lag_seconds_count",
    "oatmill_weights_apply_lag_seconds_sum",
    "oatmill_build_info",
    "oatmill_up",
}
OF_PROCESSES = {
    "oatmill_process_cpu_seconds_total",
    "oatmill_process_resident_memory_bytes",
    "oatmill_process_open_fds",
    "oatmill_process_threads",
    "oatmill_process_start_time_seconds",
}


def test_every_series_exists_from_the_start_at_0() -> None:
    found = samples(HubNumbers({}, {}))
    processes = {key: value for key, value in found.items() if key[0] in OF_PROCESSES}
    assert {key[0] for key in processes} == OF_PROCESSES
    assert {labels for _, labels in processes} == {(("process", name),) for name in ("hub", "ingest", "actors")}
    assert {name: value for (name, labels), value in processes.items() if labels == (("process", "actors"),)} == {
        "oatmill_process_cpu_seconds_total": 0,
        "oatmill_process_resident_memory_bytes": 0,
    }
    found = {key: value for key, value in found.items() if key not in processes}
    assert {name for name, _ in found} == NAMES
    assert {labels[0][1] for name, labels in found if name == "oatmill_trajectories_total"} == set(OUTCOMES)
    assert {labels[0][1] for name, labels in found if name == "oatmill_rejected_total"} == set(REJECTED_REASONS)
    assert {value for (name, _), value in found.items() if name not in {"oatmill_build_info", "oatmill_up"}} == {0.0}


def test_a_trajectory_of_an_older_policy_is_counted_as_such_when_it_is_stored() -> None:
    talk = Conversation()
    talk.hub(5)
    talk.hello()
    talk.send(0, block(2, version=2))
    found = samples(HubNumbers(talk.core.report(), {}))
    assert found["oatmill_policy_lag_stored_versions_sum", ()] == 2 * 3  # two trajectories, three versions behind
    assert found["oatmill_policy_lag_versions_sum", ()] == 0, "it was not handed out"


def test_the_set_of_series_does_not_change_later() -> None:
    talk = Conversation()
    talk.hello()
    talk.send(0, block(2, returns=(3.0,)))
    talk.send(2)
    talk.learn()
    talk.get()
    found = samples(HubNumbers(talk.core.report(), {"frames": 2}, live=1, desired=2, stopped=True))
    assert found["oatmill_run_stopped", ()] == 1
    assert {name for name, _ in found} - NAMES - OF_PROCESSES == {
        "oatmill_episode_return",
        "oatmill_episode_length",  # now with quantiles
        "oatmill_episode_info",  # of the names that an episode had
    }
    assert found["oatmill_episode_info", (("name", "hearts"),)] == 1.5  # half of the return
    assert found["oatmill_trajectories_total", (("outcome", "accepted"),)] == 4
    assert found["oatmill_trajectories_total", (("outcome", "produced"),)] == 4
    assert found["oatmill_rejected_total", (("reason", "frames"),)] == 2
    assert found["oatmill_env_steps_total", ()] == 8
    assert found["oatmill_episode_return", (("quantile", "0.5"),)] == 3.0
    assert found["oatmill_policy_lag_versions_bucket", (("le", "0.5"),)] == 4
    assert found["oatmill_policy_lag_stored_versions_bucket", (("le", "0.5"),)] == 4
    assert found["oatmill_replay_age_seconds_count", ()] == 4
    assert found["oatmill_actors_live", ()] == 1
    assert found["oatmill_up", (("role", "replay"),)] == 1
