"""What is shown while a run goes on and at its end."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.display import observer_for
from deploy.cli.live import LiveObserver, SteadyConsole, view
from deploy.cli.status import progress_lines, status_lines, uneven_lines
from deploy.cli.summary import ledger_line, loss_table, return_text, summary_lines
from runner.observer import PlainObserver, clock, done, time_left
from runner.result import Identity, compose
from runner.settings import RunSettings

COGS = RunSettings.of({"env": {"kind": "cogs"}, "trainer": {"total_timesteps": 3000}})

LINE: dict[str, Any] = {
    "learner_step": 10,
    "env_steps": 5_000,
    "env_steps_per_second": 12_345.6,
    "policy_version": 9,
    "losses": {
        "cmpo": {"raw": 0.5, "coef": 0.01, "weighted": 0.005, "share": 0.25, "gradient_share": 0.125, "terms": {}},
        "ppo_actor": {"raw": -0.015, "coef": 1.0, "weighted": -0.015, "share": 0.75, "gradient_share": None, "terms": {}},
    },
    "entropy": {"nats": 0.69, "fraction": 1.0},
    "explained_variance": None,
    "policy_lag": {"p50": 1.0, "p99": 2.0},
    "episode_return": {"mean": 21.5, "std": 3.0, "n": 100},
    "queue": {"trajectories": 32, "bytes": 1000},
    "red_flags": ["entropy_high"],
}


# What the learner leaves in learner.json; null where it came to nothing.
FIELDS = (
    "learner_steps",
    "env_steps",
    "seconds",
    "env_steps_per_second",
    "policy_version",
    "policy_lag",
    "red_flags",
    "losses",
    "entropy",
    "explained_variance",
    "episode_return",
    "episode_length",
    "episode_statistics",
)


class Broken(io.StringIO):
    """A terminal that has gone away."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError

    def isatty(self) -> bool:
        return True


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(observer: PlainObserver | LiveObserver) -> None:
    observer.started(Path("/runs/one"), 10_000, ["a note [with brackets]"])
    observer.reported(LINE)
    observer.noted("actor 1 was killed by SIGKILL; restarting in 0.5 s")
    observer.reported(LINE | {"env_steps": 10_000})
    observer.failed("learner", ["the end"])
    observer.ended()


def test_plain_lines_say_how_far_how_fast_how_well_and_each_loss_with_its_share() -> None:
    output = io.StringIO()
    watch(PlainObserver(output, every_s=60))
    lines = output.getvalue().splitlines()
    assert lines[:2] == ["run folder /runs/one", "note: a note [with brackets]"]
    # 5,000 steps at 12,346 a second take 0.4 s.
    assert "5,000 env steps ( 50%)  12,346/s  0:00:00 left  return 21.50" in lines[2]
    assert "cmpo 0.005 (25%)  ppo_actor -0.015 (75%)  entropy 0.69  lag 1  queue 32" in lines[2]
    assert lines[3].startswith("actor 1 was killed by SIGKILL")
    assert "10,000 env steps (100%)" in lines[4]  # the last one is shown although its time had not come
    assert lines[5:] == ["the last lines of learner:", "  the end"]


def test_the_live_view_shows_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = io.StringIO()
    watch(LiveObserver(output, width=120))
    shown = output.getvalue()
    for part in ("5,000 / 10,000 env steps", "12,346/s", "21.50", "cmpo", "25.0%", "12.5%", "red flags: entropy_high"):
        assert part in shown
    assert "a note [with brackets]" in shown
    assert "the last lines of learner:" in shown


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_live_view_fits_the_terminal(width: int) -> None:
    line = LINE | {"env_steps": 3_000_000, "seconds": 3_661.4, "env_steps_per_second": 1_000.0}
    losses = dict.fromkeys(("ppo_critic", "cmpo", "ppo_actor", "dynamics", "muesli_model"), LINE["losses"]["cmpo"])
    console = SteadyConsole(file=io.StringIO(), width=width, highlight=False)
    console.print(view(line | {"losses": losses}, 4_000_000, width))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= width
    for part in ("75%", "3,000,000 / 4,000,000 env steps", "1,000/s", "elapsed 1:01:01", "left 0:16:40", "return 21.50"):
        assert part in shown, "not cut and not wrapped"
    for part in (*losses, "0.005", "12.5%", "red flags: entropy_high"):
        assert part in shown


def test_a_run_that_goes_beyond_its_budget_is_done_to_100_percent() -> None:
    assert done({"env_steps": 10_001}, 10_000) == 1.0
    assert time_left({"env_steps": 10_001, "env_steps_per_second": 5.0}, 10_000) == 0.0
    assert time_left({"env_steps": 5, "env_steps_per_second": None}, 10) is None
    assert clock(None) == "-"
    assert clock(59.6) == "0:01:00"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    output = io.StringIO()
    watch(LiveObserver(output, width=120))
    assert "red flags: entropy_high" in output.getvalue()
    assert "\x1b[31m" not in output.getvalue()


def test_a_terminal_gets_the_live_view_and_everything_else_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(observer_for(Terminal()), LiveObserver)
    assert isinstance(observer_for(io.StringIO()), PlainObserver)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(observer_for(Terminal()), PlainObserver)


def test_a_terminal_that_goes_away_does_not_end_the_run() -> None:
    watch(PlainObserver(Broken(), every_s=0))
    watch(LiveObserver(Broken(), width=80))


def test_a_run_too_short_for_an_episode_says_so() -> None:
    assert return_text({"mean": None, "std": None, "n": 0}, 1.42) == "no episode has ended yet; the random policy gets 1.42"
    assert return_text({}, None) == "no episode has ended yet"


def test_the_end_compares_with_the_random_policy_and_balances_the_ledger(tmp_path: Path) -> None:
    ledger = {"produced": 9, "trained": 4, "dropped": {"stale": 2, "evicted": 0}, "queued": 1, "in_flight": 0}
    ledger |= {"unsent_at_death": 1, "lost": 1}
    status = {"fleet": {"episode_return": {"mean": 15.25, "std": 2.0, "n": 100}}, "ledger": ledger}
    result = compose(
        Identity(tmp_path, "cogs_v_clips", 0, "conservative"),
        outcome="stopped",
        error=None,
        last_line=LINE,
        status=status,
        actor_restarts=0,
    )
    text = "\n".join(summary_lines(result, COGS))
    assert "episode return  15.25 +- 2.00 over the last 100 episodes; the random policy gets 1.42" in text
    assert "outcome         stopped" in text
    # 4 + 2 + 1 + 1 + 1 = 9
    assert "produced 9 = trained 4 + stale 2 + queued 1 + unsent_at_death 1 + lost 1" in text
    assert "red flag        entropy_high" in text
    assert f"run folder      {tmp_path}" in text


@pytest.mark.parametrize(
    ("outcome", "env", "added"),
    [
        ("done", {"kind": "cogs"}, ("", " trainer.total_timesteps=6000")),
        ("stopped", {"kind": "cogs"}, ("", "")),
        ("done", {"kind": "factory", "factory": "maze:make"}, (" --trust", " trainer.total_timesteps=6000")),
    ],
)
def test_the_last_lines_say_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, env: dict[str, Any], added: tuple[str, str]
) -> None:
    trust, budget = added
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "learner.json").write_text(json.dumps(dict.fromkeys(FIELDS) | {"learner_steps": 10}))
    identity = Identity(tmp_path / "a run", "own", 0, None)
    result = compose(identity, outcome=outcome, error=None, last_line=LINE, status={}, actor_restarts=0)
    settings = RunSettings.of({"env": env, "trainer": {"total_timesteps": 3000}})
    assert summary_lines(result, settings)[-6:] == [
        "",
        f"evaluate        oatmill eval 'a run'{trust}",
        f"watch           oatmill eval 'a run'{trust} --record video.mp4",
        "plot            oatmill plot 'a run'",
        "examine         oatmill doctor 'a run'",
        f"continue        oatmill train --resume --run-dir 'a run'{trust}{budget}",
    ]


@pytest.mark.parametrize(("count", "line"), [(0, None), (1, "1 time"), (8, "8 times")])
def test_restarts_are_told_with_the_command_that_knows_why(tmp_path: Path, count: int, line: str | None) -> None:
    identity = Identity(tmp_path, "own", 0, None)
    result = compose(identity, outcome="stopped", error=None, last_line=LINE, status={}, actor_restarts=count)
    found = [shown for shown in summary_lines(result, COGS) if shown.startswith("restarts")]
    assert found == (
        [] if line is None else [f"restarts        actors ended and were restarted {line}; `oatmill doctor` says why"]
    )


def test_a_ledger_that_does_not_balance_says_so() -> None:
    assert ledger_line({"produced": 9, "trained": 4}).endswith(", but the sum is 4: the ledger does not balance")
    assert "unknown" in ledger_line({})


def test_terms_are_shown_below_a_loss_that_has_several() -> None:
    terms = {
        "policy": {"raw": -0.01, "coef": 1.0, "weighted": -0.01},
        "entropy": {"raw": 0.5, "coef": -0.01, "weighted": -0.005},
    }
    lines = loss_table({"ppo_actor": LINE["losses"]["ppo_actor"] | {"terms": terms}})
    assert [line.split()[0] for line in lines] == ["loss", "ppo_actor", "policy", "entropy"]
    assert lines[3].split() == ["entropy", "0.5", "-0.01", "-0.005"]
    assert lines[1].split()[-1] == "-"  # a share that was never measured


def test_status_shows_processes_also_while_the_server_is_still_starting() -> None:
    rows = [{"role": "actor", "id": 0, "pid": 17, "restarts": 2}]
    assert status_lines("/run", rows, None) == [
        "run /run",
        "the replay server does not answer (yet)",
        "role        id          pid         restarts",
        "actor       0           17          2",
    ]
    answer = {
        "fleet": {"episode_return": {"mean": 21.5}},
        "learner": {"env_steps": 640, "learner_step": 10},
        "policy_version": 10,
        "live": 1,
        "desired_actors": 2,
    }
    assert status_lines("/run", rows, answer)[1:3] == [
        "640 env steps trained in 10 learner steps, policy version 10, mean return 21.50",
        "1 of 2 actors live",
    ]
    starting = status_lines("/run", rows, answer | {"fleet": {}, "learner": {}, "policy_version": -1})
    assert starting[1] == "0 env steps trained in 0 learner steps, policy version -, mean return -"


def test_status_says_that_a_run_is_over() -> None:
    answer = {"fleet": {}, "learner": {"env_steps": 640, "learner_step": 10}, "policy_version": 10, "desired_actors": 2}
    assert progress_lines(answer | {"live": 0, "stop": True})[1] == "the run is over"
    assert progress_lines(answer | {"live": 1, "stop": True})[1] == "the run is ending; actors that have not left yet: 1"
    assert progress_lines(answer | {"live": 1, "stop": False})[1] == "1 of 2 actors live"


@pytest.mark.parametrize(
    "learner", [{}, dict.fromkeys(FIELDS), dict.fromkeys(FIELDS) | {"env_steps": 3072, "learner_steps": 24}]
)
@pytest.mark.parametrize("last_line", [None, {}, dict.fromkeys([*LINE, "learner_step", "policy_version"])])
@pytest.mark.parametrize("status", [{}, {"ledger": None, "fleet": None}, {"fleet": {"episode_return": None}}])
def test_a_resumed_run_that_was_stopped_before_it_came_to_anything_has_a_summary(
    tmp_path: Path, learner: dict[str, Any], last_line: dict[str, Any] | None, status: dict[str, Any]
) -> None:
    if learner:
        (tmp_path / "learner.json").write_text(json.dumps(learner))
    result = compose(
        Identity(tmp_path, "cogs_v_clips", 0, None),
        outcome="stopped",
        error=None,
        last_line=last_line,
        status=status,
        actor_restarts=0,
    )
    text = "\n".join(summary_lines(result, COGS))
    assert (
        f"env steps       {learner.get('env_steps') or 0:,} in {learner.get('learner_steps') or 0} learner steps and - s"
        in text
    )
    assert "no episode has ended yet" in text
    assert ("\npolicy " in text) == bool(result.learner_steps), "nothing is known of a policy that was not trained"
    assert ("gradient share" in text) == bool(result.losses), "a table without a row is not printed"
    assert "\n\n\n" not in text


def test_status_names_silent_and_slow_actors_and_says_nothing_where_there_are_none() -> None:
    assert uneven_lines({}) == []
    fleet = {"silent_actors": {"3": 31.4}, "slow_actors": {"1": 8.06, "3": 9.0}}
    assert uneven_lines(fleet) == [
        "silent (heartbeats, no data): actor 3 for 31 s",
        "slow (time for a block): actor 1 8.1 s, actor 3 9 s",
    ]
