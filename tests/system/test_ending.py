"""A run may end in many ways. It leaves no process and no socket, and says why it ended. Real processes and signals."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from recipes import cartpole
from runner.local import supervisor
from runner.overrides import Layer, nested, parse_assignment, resolve
from runner.run import Run
from tests.ports import free_ports
from tests.system.real_runs import (
    ENDLESS,
    SMALL,
    accounted,
    all_gone,
    command,
    environment,
    oatmill,
    processes_of,
    socket_folder,
    training,
)
from tests.system.test_listeners import LOOPBACK, listeners

F_SETPIPE_SZ = 1031


def test_ctrl_c_ends_a_run_over_tcp_with_a_checkpoint(tmp_path: Path) -> None:
    with training(tmp_path, "--listen", f"tcp://127.0.0.1:{free_ports()}", *ENDLESS) as train:
        train.until(lambda: train.learner_steps() >= 3)
        assert train.run_json()["control"].startswith("tcp://127.0.0.1:")
        for number in (signal.SIGINT, signal.SIGTERM):  # one stop that is delivered twice, as by `timeout` and shells
            train.process.send_signal(number)
            time.sleep(0.02)
        assert train.end() == 0
        summary = train.summary()
        assert (summary["outcome"], summary["error"]) == ("stopped", None)
        latest = (train.run_dir / "checkpoints" / "latest").resolve().name
        assert latest == f"step-{summary['learner_steps']}"
        assert summary["ledger"]["produced"] == accounted(summary["ledger"])
        assert all_gone(train.run_dir)


def test_a_run_whose_folder_is_deleted_ends_with_one_line(tmp_path: Path) -> None:
    with training(tmp_path, *ENDLESS) as train:
        train.until(lambda: train.learner_steps() >= 1)
        sockets = socket_folder(train.run_json()["control"])
        train.process.send_signal(signal.SIGSTOP)  # it notices late, so that the others go on and write
        train.run_dir.rename(tmp_path / "deleted")  # in one step, so that nothing is written into the folder in between
        time.sleep(3)  # TensorBoard's import takes the learner's first seconds
        assert not train.run_dir.exists()
        train.process.send_signal(signal.SIGCONT)
        assert train.end() == 1
        (line,) = train.errors.read_text().splitlines()
        assert line.endswith("was deleted or moved during the run; the run ends")
        assert not train.run_dir.exists()
        assert not sockets.exists()
        assert all_gone(train.run_dir)


@pytest.mark.slow  # tests/oatmill/process/test_nonblocking_output.py tests the parts of it
def test_a_run_whose_output_nobody_reads_continues_to_its_end(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    try:
        done = subprocess.run(
            command("train", "cartpole", "--run-dir", "run", *SMALL, "actors.count=1", "trainer.total_timesteps=2000"),
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == f"the output could not be written; see {tmp_path}/run/summary.json\n"
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["outcome"] == "done"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.slow
@pytest.mark.parametrize("everybody", [False, True])
def test_a_run_that_was_paused_for_more_than_a_minute_continues(tmp_path: Path, everybody: bool) -> None:
    with training(tmp_path, *ENDLESS) as train:
        train.until(lambda: train.learner_steps() >= 3)
        family = [train.process.pid]
        if everybody:
            family += [child.pid for child in psutil.Process(train.process.pid).children(recursive=True)]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(70)  # longer than all time limits for silence
        for pid in reversed(family):
            os.kill(pid, signal.SIGCONT)
        done = train.learner_steps()
        train.until(lambda: train.learner_steps() > done + 10)
        train.process.send_signal(signal.SIGINT)
        assert train.end() == 0
        summary = train.summary()
        assert summary["ledger"]["trained"] == 8 * summary["learner_steps"]
        assert summary["ledger"]["produced"] == accounted(summary["ledger"])
        assert {"learner_restarted", "replay_restarted", "actor_restarted"}.isdisjoint(
            {event["event"] for event in train.events()}
        )


@pytest.mark.serial  # it bounds the time
def test_sigterm_before_anything_is_trained_ends_a_run_soon(tmp_path: Path) -> None:
    with training(tmp_path, *ENDLESS) as train:
        train.until(lambda: len(train.pids("learner")) == 1)
        began = time.monotonic()
        train.process.terminate()
        assert train.end() == 0
        assert time.monotonic() - began < 20
        assert train.summary()["outcome"] == "stopped"
        assert not socket_folder(train.run_json()["control"]).exists()
        assert all_gone(train.run_dir)


def test_a_killed_actor_is_replaced_a_fleet_is_scaled_and_a_run_is_stopped_from_another_terminal(tmp_path: Path) -> None:
    with training(tmp_path, "--actors", "1", *ENDLESS) as train:
        train.until(lambda: train.learner_steps() >= 1)
        train.until(lambda: {"replay", "learner"} <= train.run_json()["endpoints"].keys())
        second = oatmill(tmp_path, "train", "cartpole", "--run-dir", "run")
        assert (second.returncode, "another run is active in" in second.stderr) == (2, True)

        (victim,) = train.pids("actor")
        os.kill(victim, signal.SIGKILL)
        train.until(lambda: train.pids("actor") not in ([], [victim]))
        status = json.loads(oatmill(tmp_path, "status", "--json").stdout)
        assert {row["role"] for row in status} == {"supervisor", "replay", "learner", "actor"}
        assert [row for row in status if row["role"] == "actor"] == [
            {"role": "actor", "id": 0, "pid": train.pids("actor")[0], "restarts": 1}
        ]

        assert oatmill(tmp_path, "scale", "--actors", "2").returncode == 0
        train.until(lambda: len(train.pids("actor")) == 2)
        done = train.learner_steps()
        train.until(lambda: train.learner_steps() > done)  # and training continues

        stopped = oatmill(tmp_path, "stop")
        assert stopped.returncode == 0, stopped.stderr
        assert train.end() == 0
        assert (train.summary()["outcome"], train.summary()["actor_restarts"]) == ("stopped", 1)
        ledger = train.summary()["ledger"]
        assert ledger["produced"] == accounted(ledger)
        assert "actor_restarted" in {event["event"] for event in train.events()}
        assert all_gone(train.run_dir)


def test_a_run_is_stopped_even_if_the_learner_hears_of_the_stop_before_the_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STATUS_EVERY_S", 3600.0)
    run_dir = tmp_path / "run"

    def stop_from_elsewhere() -> None:
        deadline = time.monotonic() + 60
        while not (run_dir / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        oatmill(tmp_path, "stop", "--run-dir", str(run_dir))

    somebody = threading.Thread(target=stop_from_elsewhere)
    somebody.start()
    endless = Layer(nested(parse_assignment(text) for text in ENDLESS))
    result = Run(resolve(cartpole.settings().to_dict(), [endless])).start(run_dir=run_dir)
    somebody.join()
    assert (result.outcome, result.learner_steps > 0) == ("stopped", True)
    assert "stop_asked" in (run_dir / "events.jsonl").read_text()


def test_a_killed_learner_continues_from_its_checkpoint_and_the_ledger_counts_what_was_rolled_back(tmp_path: Path) -> None:
    every = 20
    with training(tmp_path, *ENDLESS, f"trainer.checkpoint_every={every}", "metrics.report_every=1") as train:
        # Well after one checkpoint and well before the next, because a learner that is killed right after saving loses nothing.
        train.until(lambda: train.learner_steps() > every and 3 <= train.learner_steps() % every <= 10)
        (victim,) = train.pids("learner")
        os.kill(victim, signal.SIGKILL)
        began, reported = time.monotonic(), train.learner_steps()
        train.until(lambda: train.pids("learner") not in ([], [victim]))
        train.until(lambda: train.learner_steps() > reported + 5)
        assert time.monotonic() - began < 15
        assert oatmill(tmp_path, "stop").returncode == 0
        assert train.end() == 0, train.errors.read_text()
        lines = [json.loads(line) for line in (train.run_dir / "metrics.jsonl").read_text().splitlines()]
        steps = [line["learner_step"] for line in lines]
        back = next(number for number in range(1, len(steps)) if steps[number] <= steps[number - 1])
        assert (steps[back] - 1) % every == 0, "it continued from a checkpoint"
        versions = [line["policy_version"] for line in lines]
        assert versions == sorted(set(versions)), "no version was used twice"
        ledger = train.summary()["ledger"]
        assert ledger["produced"] == accounted(ledger)
        assert ledger["lost"] == 0
        assert ledger["dropped"]["rolled_back"] > 0
        assert ledger["trained"] == 8 * train.summary()["learner_steps"], "8 trajectories per step that was kept"
        (restarted,) = [event for event in train.events() if event["event"] == "learner_restarted"]
        assert restarted["how"] == "was killed by SIGKILL"
        assert all_gone(train.run_dir)


def test_a_learner_that_is_killed_repeatedly_before_a_step_ends_the_run_with_its_last_lines(tmp_path: Path) -> None:
    with training(tmp_path, *ENDLESS, "trainer.max_restarts=0") as train:
        train.until(lambda: train.learner_steps() >= 1)
        os.kill(train.pids("learner")[0], signal.SIGKILL)
        assert train.end() == 1
        said = train.errors.read_text().splitlines()
        assert said[-1].startswith("oatmill: error: the learner process was killed by SIGKILL; its log is ")
        assert "the last lines of learner:" in (tmp_path / "stdout.txt").read_text()
        assert (train.summary()["outcome"], train.summary()["learner_steps"] > 0) == ("failed", True)
        assert not socket_folder(train.run_json()["control"]).exists()
        assert all_gone(train.run_dir)


def test_after_a_killed_supervisor_no_process_is_left_and_the_folder_is_free_again(tmp_path: Path) -> None:
    with training(tmp_path, *ENDLESS) as train:
        train.until(lambda: train.learner_steps() >= 1)
        assert len(processes_of(train.run_dir)) >= 4  # the two processes of replay, the learner, the actor and the supervisor
        train.process.kill()
        train.end()
        assert all_gone(train.run_dir)
        assert "no run is active in" in oatmill(tmp_path, "status").stderr


FACTORY = """
import gymnasium

class Tired(gymnasium.Wrapper):
    steps = 0
    def step(self, action):
        self.steps += 1
        if self.steps > 200:
            raise RuntimeError("I am tired")
        return super().step(action)

def make():
    return Tired(gymnasium.make("CartPole-v1"))
"""


def test_an_environment_that_raises_ends_the_run_when_restarts_do_not_help(tmp_path: Path) -> None:
    (tmp_path / "tired_world.py").write_text(FACTORY)
    arguments = ["env.kind=factory", "env.factory=tired_world:make", "actors.max_restarts=0", "--actors", "1"]
    with training(tmp_path, *arguments, *ENDLESS) as train:
        assert train.end() == 1
        said = train.errors.read_text().splitlines()
        assert said[-1].startswith("oatmill: error: actor 0 ended with exit code 72: env.factory=tired_world:make")
        assert "I am tired" in said[-1]
        assert all_gone(train.run_dir)


def test_two_learner_ranks_train_as_a_group_and_continue_after_one_was_killed(tmp_path: Path) -> None:
    every = "trainer.checkpoint_every=2"
    with training(tmp_path, "--learners", "2", *ENDLESS, every, "metrics.report_every=1") as train:
        train.until(lambda: train.learner_steps() >= 4 and len(train.pids("learner")) == 2, within_s=150)
        found = listeners(train.process.pid)
        assert {ip for ip, _ in found} <= LOOPBACK, found
        assert len(found) == 4, "the metrics pages of replay and rank 0, and one gloo port per rank"
        before = train.pids("learner")
        os.kill(before[1], signal.SIGKILL)
        reported = train.learner_steps()
        train.until(lambda: train.learner_steps() > reported + 3, within_s=150)
        assert set(train.pids("learner")).isdisjoint(before)
        assert oatmill(tmp_path, "stop").returncode == 0
        assert train.end() == 0, train.errors.read_text()
        ledger = train.summary()["ledger"]
        assert ledger["produced"] == accounted(ledger)
        assert (ledger["lost"], ledger["trained"]) == (0, 8 * train.summary()["learner_steps"])
        assert all_gone(train.run_dir)


def test_sigterm_while_the_plan_is_made_leaves_nothing_behind(tmp_path: Path) -> None:
    with training(tmp_path, *ENDLESS) as train:
        train.until((train.run_dir / "checkpoints").exists)
        train.process.terminate()
        assert train.end() == 130
        assert not train.run_dir.exists()
        assert train.errors.read_text() == ""
        assert all_gone(train.run_dir)
