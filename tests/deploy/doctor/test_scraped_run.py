"""A run as Prometheus knows it: what becomes of its series, and what is said of a server that has none or is none."""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deploy.doctor.prometheus_api import Series
from deploy.doctor.scraped_run import examined_learner, lines_of, matcher, standing
from oatmill.errors import UserError
from tests.ports import free_ports

SETTINGS = {"trainer.total_timesteps": 1000.0, "trainer.epochs": 2.0, "trainer.minibatches": 4.0}
Answer = Callable[[str], tuple[int, str]]


def series(name: str, *values: float, **labels: str) -> Series:
    """One with a value every five seconds, from 100 s on."""
    named = {"__name__": f"oatmill_{name}", "instance": "learner:9464", **labels}
    return Series(named, {100.0 + 5 * place: value for place, value in enumerate(values)})


SCRAPED = [
    series("policy_version", 1, 3, 3, 8),
    series("progress_ratio", 0.0, 0.1, 0.1, 0.5),
    series("learner_step_seconds_sum", 0, 1, 1, 2, phase="wait"),
    series("learner_step_seconds_sum", 0, 3, 3, 5, phase="forward"),
    series("loss_nonfinite_total", 0, 2, 2, 5, loss="cmpo"),
    series("loss_nonfinite_total", 0, 2, 2, 2, loss="gradient"),
    series("loss_coefficient", 0, 0.3, 0.3, 0.3, loss="cmpo", term="kl"),
    series("loss_coefficient", 0, 0, 0, 0, loss="dynamics", term="returns"),
    series("loss", 0, 0.5, 0.5, 0.7, loss="cmpo", term="kl"),
    series("loss", 0, 9, 9, 9, loss="dynamics", term="returns"),
    series("loss_share", 0, 0.1, 0.1, 0.2, loss="cmpo"),
    series("loss_gradient_share", 0, math.nan, math.nan, 0.4, loss="cmpo"),
    *(series("red_flag", 0, 0, 0, raised, flag=flag) for flag, raised in (("entropy_high", 1), ("loss_spike", 0))),
    *(
        series("red_flag_reports_total", 0, *more, flag=flag)
        for flag, more in (("entropy_high", (0, 0, 2)), ("loss_spike", (1, 1, 1)))
    ),
    series("policy_entropy_ratio", 0, 0.9, 0.9, 0.8),
]


def test_a_line_is_made_of_each_time_at_which_the_policy_was_another() -> None:
    lines = lines_of(SCRAPED, {115.0: 21.0}, {115.0: 0.9}, SETTINGS)
    assert [line["env_steps"] for line in lines] == [100.0, 500.0], "none before the first step, none twice"
    first, second = lines
    assert second["losses"] == {"cmpo": {"kl": 0.7, "share": 0.2, "gradient_share": 0.4}}, "what is switched off is left out"
    assert second["episode_return"] == {"mean": 21.0}
    assert math.isnan(first["episode_return"]["mean"])
    assert [line["episode_statistics"] for line in lines] == [{}, {"agent_return_std": 0.9}]
    assert second["entropy"]["fraction"] == 0.8


def test_a_resumed_learner_that_has_not_reported_yet_makes_no_line() -> None:
    unreported = [series("learner_step_seconds_sum", 2, 3, 3, 5, phase="forward")]
    lines = lines_of([*(one for one in SCRAPED if one.labels.get("phase") != "forward"), *unreported], {}, {}, SETTINGS)
    assert [line["env_steps"] for line in lines] == [100.0, 500.0]


def test_counters_count_from_line_to_line() -> None:
    first, second = lines_of(SCRAPED, {}, {}, SETTINGS)
    assert [first["updates"], second["updates"]] == [2 * 8, 5 * 8]
    assert [first["skipped_updates"], second["skipped_updates"]] == [2, 3]
    assert [first["wait_fraction"], second["wait_fraction"]] == [1 / 4, 1 / 3]
    assert [first["red_flags"], second["red_flags"]] == [["loss_spike"], ["entropy_high"]]


def test_a_learner_that_was_resumed_counts_the_updates_before() -> None:
    resumed = [series("policy_version", 40, 40, 40, 41), *(one for one in SCRAPED if one.name != "oatmill_policy_version")]
    assert sum(line["updates"] for line in lines_of(resumed, {}, {}, SETTINGS)) == 40 * 8


@pytest.mark.parametrize(
    ("silent_s", "spent", "scraped", "said"),
    [
        (5, 0.5, True, ("", "")),
        (500, 1.0, False, ("", "")),
        (500, 0.5, True, ("ended 500 s ago, at 50% of the budget; the learner still runs, but does not train", "")),
        (500, 0.5, False, ("", "last seen 500 s ago, at 50% of the budget; Prometheus does not know whether")),
    ],
)
def test_a_learner_that_hangs_is_in_trouble_and_one_that_is_gone_may_be_done(
    silent_s: float, spent: float, scraped: bool, said: tuple[str, str]
) -> None:
    assert all(part in whole for part, whole in zip(said, standing(silent_s, spent, scraped=scraped), strict=True))
    assert [bool(part) for part in standing(silent_s, spent, scraped=scraped)] == [bool(part) for part in said]


@pytest.mark.parametrize("text", ["namespace", "=a", "a b=c"])
def test_a_matcher_has_two_sides(text: str) -> None:
    with pytest.raises(UserError, match="--match must be LABEL=VALUE"):
        matcher(text)
    assert matcher("a=b=c") == ("a", "b=c")


@pytest.fixture
def server() -> Iterator[Callable[[Answer], str]]:
    """Starts a small HTTP server that answers queries as it is told; this stands in for Prometheus and for what is none."""
    running: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                status, text = answer(asked["query"][0])
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}"

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


def vector(*found: tuple[dict[str, str], float]) -> str:
    """What Prometheus answers to a question about now."""
    result = [{"metric": labels, "value": [time.time(), str(value)]} for labels, value in found]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (200, "<html>Grafana</html>", "is not a Prometheus server"),
        (200, '{"data": []}', "is not a Prometheus server"),
        (404, "not here", "answered 404 Not Found"),
        (503, '{"error": "starting up"}', "answered 503 starting up"),
        (200, vector(), "knows no learner with namespace=\"a\" that has trained"),
    ],
)  # fmt: skip
def test_a_server_that_is_none_or_knows_no_learner_is_one_line(
    server: Callable[[Answer], str], status: int, text: str, said: str
) -> None:
    url = server(lambda _: (status, text))
    with pytest.raises(UserError) as error:
        examined_learner(url, ["namespace=a"])
    assert f"{url} {said}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_server_that_is_not_there_is_one_line() -> None:
    url = f"http://127.0.0.1:{free_ports()}"
    with pytest.raises(UserError, match=f"no Prometheus answers at {url} .*Connection refused"):
        examined_learner(url)


@pytest.mark.parametrize("url", ["localhost:9090", "file:///etc/passwd", "http://", ""])
def test_an_address_has_a_scheme_and_a_host(url: str) -> None:
    with pytest.raises(UserError, match="--prometheus must be an address such as http://localhost:9090"):
        examined_learner(url)


def test_two_learners_that_train_now_are_named_and_an_older_one_is_passed_over(server: Callable[[Answer], str]) -> None:
    now = time.time()
    old, one, two = ({"instance": f"{name}:9464", "job": "learner"} for name in ("old", "one", "two"))
    both = server(lambda _: (200, vector((one, now), (two, now - 5), (old, now - 3600))))
    with pytest.raises(UserError, match="2 learners train now: instance=two:9464, instance=one:9464; choose one by --match"):
        examined_learner(both)
    newest = server(lambda asked: (200, vector((old, now - 3600), (one, now)) if "last_update" in asked else vector()))
    with pytest.raises(UserError, match="the learner at instance=one:9464 exports no oatmill_setting"):
        examined_learner(newest)
