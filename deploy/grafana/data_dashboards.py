"""Dashboards about the machinery: Data path, Fleet, Process."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Panel, Query, Row, Steps

LAG: Steps = ((None, "transparent"), (8, "yellow"), (16, "red"))
"""The alert's threshold, and replay.max_policy_lag's default."""


def percentiles(name: str) -> list[Query]:
    """Median, 90th and 99th percentile of a histogram."""
    form = "histogram_quantile({}, sum by (le) (rate({}_bucket[$__rate_interval])))"
    return [Query(form.format(part, name), label) for part, label in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))]


def flow(outcomes: str) -> Query:
    """Trajectories a second, by what became of them."""
    return Query(
        f'sum by (outcome) (rate(oatmill_trajectories_total{{outcome=~"{outcomes}"}}[$__rate_interval]))', "{{outcome}}"
    )


DATA_PATH = Dashboard(
    "data-path",
    "Data path",
    "From actors through the queue to the learner, and weights back.",
    [
        Row("Queue"),
        Panel(
            "Queue and credit",
            "Trajectories that wait and that actors may send; never above the capacity. No credit: the learner limits.",
            "none",
            [
                Query("oatmill_replay_items", "waiting"),
                Query("oatmill_replay_credit_items", "credit"),
                Query("oatmill_replay_capacity_items", "capacity"),
            ],
            stacked=True,
            dashed="capacity",
            low=0,
        ),
        Panel(
            "Who limits",
            "Part of its time that the learner waits for data, and part of the queue's room that is taken.",
            "percentunit",
            [Query("oatmill_learner_wait:share5m", "learner waits"), Query("oatmill_replay_fill:share", "queue is full")],
            low=0,
            high=1,
        ),
        Panel(
            "Memory",
            "Of waiting trajectories, and of those kept to be sampled again.",
            "bytes",
            [Query("oatmill_replay_bytes", "queue"), Query("oatmill_replay_buffer_bytes", "buffer")],
            low=0,
        ),
        Panel(
            "Replay buffer",
            "Trajectories kept to be sampled again (replay.fraction); 0 without one.",
            "none",
            [Query("oatmill_replay_buffer_items", "kept"), Query("oatmill_replay_buffer_capacity_items", "capacity")],
            dashed="capacity",
            low=0,
        ),
        Row("Age and latency"),
        Panel(
            "Policy lag",
            "Versions between the policy that acted and the newest, when data is handed out; above 16 it is dropped as stale.",
            "none",
            percentiles("oatmill_policy_lag_versions"),
            thresholds=LAG,
            bands=True,
            low=0,
        ),
        Panel("Wait in the queue", "From arrival to the learner.", "s", percentiles("oatmill_replay_age_seconds"), log=True),
        Panel("Transit", "From the end of an unroll to its arrival.", "s", percentiles("oatmill_transit_seconds"), log=True),
        Panel(
            "Weights: from the hub to an actor",
            "Until they are whole and verified.",
            "s",
            percentiles("oatmill_weights_apply_lag_seconds"),
            log=True,
        ),
        Panel(
            "Weights: from the learner to the hub",
            "From the learner's push.",
            "s",
            percentiles("oatmill_weights_publish_seconds"),
            log=True,
        ),
        Panel(
            "Weights sent",
            "To all actors together.",
            "Bps",
            [Query("sum(rate(oatmill_weights_bytes_total[$__rate_interval]))", "sent")],
            low=0,
        ),
        Row("Ledger"),
        Panel("Trajectories in", "Collected by actors, and stored.", "cps", [flow("produced|accepted|replayed")], low=0),
        Panel(
            "Trajectories dropped",
            "By reason; all 0 in a quiet run. duplicate came twice and was stored once.",
            "cps",
            [flow("stale|evicted|rejected|rolled_back|duplicate|unsent_at_death")],
            low=0,
        ),
        Panel(
            "On the way",
            "Trajectories that wait, and that are sent or being trained on.",
            "none",
            [Query("oatmill_trajectories_pending", "{{place}}")],
            low=0,
        ),
        Panel(
            "Lost",
            "Acknowledged and in no other column; must be 0.",
            "none",
            [Query('oatmill_trajectories_total{outcome="lost"}', "lost")],
            low=0,
        ),
    ],
)

FLEET = Dashboard(
    "fleet",
    "Fleet",
    "The actors together; each one's detail is at /actors of the replay server.",
    [
        Panel(
            "Actors",
            "That send heartbeats, and that there shall be.",
            "none",
            [Query("oatmill_actors_live", "live"), Query("oatmill_actors_expected", "expected")],
            dashed="expected",
            low=0,
        ),
        Panel(
            "Actors that fell silent or were replaced",
            "In each interval, and how many are silent or slow now; restarts that repeat mean an environment that raises.",
            "none",
            [
                Query("increase(oatmill_actors_expired_total[$__rate_interval])", "fell silent"),
                Query("increase(oatmill_actor_restarts_total[$__rate_interval])", "replaced"),
                Query("oatmill_actors_silent", "send no data"),
                Query("oatmill_actors_slow", "are slow"),
            ],
            low=0,
        ),
        Panel(
            "Env steps a second and actor",
            "Falls when actors compete for cores or wait for credit.",
            "cps",
            [Query("sum(rate(oatmill_env_steps_total[$__rate_interval])) / (sum(oatmill_actors_live) > 0)", "an actor")],
            low=0,
        ),
        Panel(
            "Episodes a second",
            "That ended, of all actors.",
            "cps",
            [Query("sum(rate(oatmill_episodes_total[$__rate_interval]))", "episodes")],
            low=0,
        ),
        Panel(
            "Bad messages by reason",
            "None unless a peer is broken or foreign. The newest lie in the run folder's quarantine.",
            "cps",
            [
                Query(
                    "sum by (reason) (rate(oatmill_rejected_total[$__rate_interval])) > 0"
                    ' or label_replace(sum(rate(oatmill_rejected_total[$__rate_interval])), "reason", "all", "", "")',
                    "{{reason}}",
                )
            ],
            low=0,
        ),
        Panel(
            "Weights: from the hub to an actor",
            "An actor that gets weights late acts on old ones.",
            "s",
            percentiles("oatmill_weights_apply_lag_seconds"),
            log=True,
        ),
    ],
)

PROCESS = Dashboard(
    "process",
    "Process",
    "What the processes that serve metrics take: the hub, ingest, and the learner's rank 0.",
    [
        Panel(
            "CPU",
            "Cores in use by each process.",
            "short",
            [Query("rate(oatmill_process_cpu_seconds_total[$__rate_interval])", "{{process}}")],
            low=0,
        ),
        Panel("Memory", "Resident.", "bytes", [Query("oatmill_process_resident_memory_bytes", "{{process}}")], low=0),
        Panel(
            "A learner step by phase",
            "Mean time of each phase, on top of each other: their sum is a learner step.",
            "s",
            [
                Query(
                    "sum by (phase) (rate(oatmill_learner_step_seconds_sum[$__rate_interval]))"
                    " / on () group_left () sum(rate(oatmill_learner_steps_total[$__rate_interval]) > 0)",
                    "{{phase}}",
                )
            ],
            stacked=True,
            low=0,
        ),
        Panel(
            "Slowest phases, 99th percentile",
            "Of each phase.",
            "s",
            [
                Query(
                    "histogram_quantile(0.99, sum by (le, phase) "
                    "(rate(oatmill_learner_step_seconds_bucket[$__rate_interval])))",
                    "{{phase}}",
                )
            ],
            log=True,
        ),
        Panel(
            "Open files and sockets",
            "Should not grow for ever.",
            "none",
            [Query("oatmill_process_open_fds", "{{process}}")],
            low=0,
        ),
        Panel("Threads", "Should not grow for ever.", "none", [Query("oatmill_process_threads", "{{process}}")], low=0),
        Panel(
            "Age of the process",
            "A fall is a restart.",
            "s",
            [Query("time() - oatmill_process_start_time_seconds", "{{process}}")],
            low=0,
        ),
        Panel(
            "Versions",
            "Number of processes by version of oatmill and Python.",
            "none",
            [Query("count by (version, python) (oatmill_build_info)", "oatmill {{version}}, Python {{python}}")],
            low=0,
        ),
    ],
)
