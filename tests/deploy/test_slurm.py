from __future__ import annotations

import io
import shlex
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.cli.entry import run_command
from deploy.engines.slurm_job import TASK, JobStep, Places, SlurmLauncher
from recipes import cartpole
from runner.folder import RunFolder, read_run
from runner.local.job import Job
from runner.local.listening import Listening
from runner.observer import PlainObserver


def script_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, str], str]:
    """The options of `#SBATCH` lines and the rest of the script that --dry-run prints."""
    assert run_command(["slurm", "cartpole", "--dry-run", *words]) == 0
    text = capsys.readouterr().out
    given = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (option.removeprefix("--").partition("=") for option in given)}, text


def test_the_defaults_fit_on_one_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options, text = script_of(capsys, "--actors", "4")
    folder = tmp_path / "runs" / "cartpole"
    assert options == {
        "job-name": "oatmill-cartpole",
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": "7",  # four actors, one rank, two for replay
        "output": f"{folder}/slurm-%j.out",
        "open-mode": "append",
        "signal": "B:USR1@120",
        "requeue": "",
    }
    assert f"--keys {folder}/keys" in text
    assert list(tmp_path.iterdir()) == []


def test_options_have_the_meaning_of_slurms(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--nodes=2", "--gpus-per-node=2", "--actors-per-node=30", "--mem=64G", "--partition=gpu", "--account=lab"]
    options, text = script_of(capsys, *words, "--time=4:00:00", "--cpus", "40", "--run-dir", f"{tmp_path}/a 100%")
    assert {
        name: options[name] for name in ("nodes", "gpus-per-node", "cpus-per-task", "mem", "partition", "account", "time")
    } == {
        "nodes": "2",
        "gpus-per-node": "2",
        "cpus-per-task": "40",
        "mem": "64G",
        "partition": "gpu",
        "account": "lab",
        "time": "4:00:00",
    }
    assert options["output"] == f"{tmp_path}/a 100%%/slurm-%j.out"  # of two %, Slurm makes one
    assert "--ranks-per-node 2 " in text


@pytest.mark.parametrize("words", [[], ["--run-dir", "with 'quotes' and $PROGRAM"]])
def test_the_script_is_good_bash(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    _, text = script_of(capsys, *words)
    for script in (text, TASK):
        checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--learners", "3", "--nodes", "2"], "--learners 3 cannot be divided among 2 nodes"),
        (["--learners", "8", "--nodes", "2", "--gpus-per-node", "2"], "with 2 GPUs each"),
        (["--actors", "2", "--actors-per-node", "2"], "expected --actors or --actors-per-node, got both"),
        (["--nodes", "0"], "--nodes"),
        (["trainer.gama=1"], "trainer.gamma"),
    ],
)
def test_bad_input_is_one_line(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["slurm", "cartpole", "--dry-run", *words]) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)


def fake_sbatch(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an sbatch on the path; without one nothing can be submitted."""
    (folder / "bin").mkdir()
    (folder / "bin" / "sbatch").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def test_the_folder_has_what_the_job_needs_and_is_not_taken_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_sbatch(tmp_path, 'echo "Submitted batch job 7 $(head -n 1 "$1")"', monkeypatch)
    words = ["slurm", "cartpole", "--run-dir", str(tmp_path / "run")]
    assert run_command(words) == 0
    assert capsys.readouterr().out.startswith("Submitted batch job 7 #!/bin/bash\n")
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"config.yaml", "job.sbatch", "keys"}
    assert run_command(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert run_command([*words, "--resume"]) == 0


def test_a_job_that_slurm_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_sbatch(tmp_path, "echo 'sbatch: error: invalid partition' >&2; exit 1", monkeypatch)
    assert run_command(["slurm", "cartpole", "--run-dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "oatmill: error: sbatch refused the job: sbatch: error: invalid partition\n"
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_command(["slurm", "cartpole", "--run-dir", str(tmp_path / "run")]) == 2
    assert "sbatch was not found" in capsys.readouterr().err


def test_actors_take_turns_on_the_nodes_and_ranks_are_on_the_first() -> None:
    places = Places(["a", "b", "c"], ranks=4, ranks_per_node=2)
    assert [places.prefix("actor", number)[2] for number in range(4)] == [f"--nodelist={name}" for name in "abca"]
    learner = places.prefix("learner", 0)
    assert learner[2:6] == ["--nodelist=a,b", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2"]
    alone = Places(["a"], ranks=4, ranks_per_node=4).prefix("learner", 0)
    assert alone[2:6] == ["--nodelist=a", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1"]


def test_roles_are_job_steps_and_the_evaluator_runs_beside_the_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    steps: list[str] = []
    begin = JobStep.__init__

    def recorded(step: JobStep, role: str, *arguments: Any, **options: Any) -> None:
        steps.append(role)
        begin(step, role, *arguments, **options)

    monkeypatch.setattr(JobStep, "__init__", recorded)
    settings = cartpole.settings()
    settings.evaluator.enabled = True
    folder = RunFolder.new(tmp_path / "run", "cartpole")
    nowhere = Listening("ipc:///nowhere", "ipc:///nowhere/control")
    job = Job(settings, folder, nowhere, PlainObserver(io.StringIO()))
    launcher = SlurmLauncher(job, places=Places(["a"], ranks=1, ranks_per_node=1))
    actor = launcher.start_actor(0)
    assert actor is not None, "no server forks it"
    try:
        launcher.record({}, [actor], lambda _: 0)
        (evaluator,) = (one for one in read_run(folder.path)["processes"] if one["role"] == "evaluator")
        command = psutil.Process(evaluator["pid"]).cmdline()
        assert "runner.evaluation.evaluator" in command
        assert steps == ["actor"]  # the evaluator's signals are not those of a job step
    finally:
        launcher.close()
        actor.kill()
        folder.release()


@pytest.mark.parametrize("pause", ["", "sleep 1; "], ids=["soon", "before the child is known"])
def test_a_task_gets_its_rank_and_passes_usr1_on_as_term(pause: str) -> None:
    ranked = subprocess.run(
        ["bash", "-c", TASK, "learner", "bash", "-c", "echo $RANK $LOCAL_RANK $WORLD_SIZE; exit 7"],
        env={"PATH": "/usr/bin:/bin", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ranked.returncode, ranked.stdout) == (7, "3 1 4\n")
    role = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        ["bash", "-c", TASK.replace("child=$!", f"{pause}child=$!"), "actor", "bash", "-c", role],
        env={"PATH": "/usr/bin:/bin", "SLURM_NTASKS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == "ready\n"
        task.send_signal(10)  # SIGUSR1
        assert task.stdout.read() == "told\n"
    assert task.returncode == 5
