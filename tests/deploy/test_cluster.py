"""`oatmill cluster` where there is no engine, a broken one, or no image; and that the files it needs are in the wheel."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from typer.main import get_command

import deploy.engines.start
from deploy.cli.app import app
from deploy.cli.cluster import NO_EVALUATOR
from deploy.cli.entry import run_command
from deploy.cli.groups import RoleOptions
from deploy.cli.roles import role_settings
from deploy.engines.compose import ENGINE, HERE, SERVICES, ComposeCluster, Container, Engine
from deploy.engines.start import Start, digest_of, refuse_what_is_over, scale_actors
from oatmill.errors import UserError
from oatmill.settings import yaml_format
from recipes import cartpole
from runner.settings import RunSettings

OPTIONS = {
    "up": {
        "--actors",
        "--learners",
        "--preset",
        "--config",
        "--run",
        "--image",
        "--gpu",
        "--without",
        "--timeout",
        "--insecure",
    },
    "scale": {"--actors", "--learners"},
    "status": {"--json"},
    "down": {"--volumes"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_are_the_promised_ones(name: str) -> None:
    group: Any = get_command(app).commands["cluster"]  # type: ignore[attr-defined]
    shown = {option for parameter in group.commands[name].params for option in parameter.opts if option.startswith("--")}
    assert shown == OPTIONS[name] | {"--on", "--project", "--log-level"}


def test_the_image_for_gpus_has_the_extras_of_the_others_and_measures_gpus() -> None:
    compose = yaml.safe_load((HERE / "compose.gpu.yaml").read_text())
    (default,) = re.findall(r"^ARG EXTRAS=(.+)$", (HERE / "Dockerfile").read_text(), re.MULTILINE)
    extras = compose["services"]["learner"]["build"]["args"]["EXTRAS"].split(",")
    assert extras == [*default.split(","), "gpu"]
    known = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(known)


class OneRun:
    """Stands in for a cluster whose hub answers."""

    def __init__(self, run: str, settings: RunSettings, **status: Any) -> None:
        environment = {"OATMILL_RUN": run, "OATMILL_CONFIG_DIGEST": digest_of(settings.to_dict())}
        self.kept = {"environment": environment}
        self._status = {"stop": True, "learner": {"env_steps": 300_000}} | status

    def containers(self) -> list[str]:
        return ["replay"]

    def status(self) -> dict[str, Any]:
        return self._status


def started_again(run: str, settings: RunSettings, cluster: OneRun) -> None:
    wanted = Start(settings, recipe="cartpole", run=run, image=None, gpu=False, without=(), timeout_s=0)
    refuse_what_is_over(cast("ComposeCluster", cluster), wanted, settings)


def test_up_on_a_run_that_is_over_says_so_and_how_it_goes_on() -> None:
    settings = cartpole.settings()
    with pytest.raises(UserError) as over:
        started_again("one", settings, OneRun("one", settings))
    assert str(over.value) == (
        "the run one is over, after 300,000 of 300,000 env steps; raise trainer.total_timesteps to continue it, or start "
        "another one with --run NAME"
    )
    with pytest.raises(UserError, match="after 9 of 300,000 env steps; `oatmill cluster down` and `up` continue it"):
        started_again("one", settings, OneRun("one", settings, learner={"env_steps": 9}))


def test_up_goes_on_with_a_run_that_is_not_over_or_is_another_one() -> None:
    settings, longer = cartpole.settings(), cartpole.settings()
    longer.trainer.total_timesteps = 400_000
    started_again("one", settings, OneRun("one", settings, stop=False))
    started_again("other", settings, OneRun("one", settings))
    started_again("one", longer, OneRun("one", settings))


def test_plain_compose_starts_what_the_hub_expects_in_the_project_that_commands_look_for() -> None:
    services = yaml.safe_load((HERE / "compose.yaml").read_text())["services"]
    expected = services["replay"]["environment"]["OATMILL__ACTORS__COUNT"]
    assert services["actor"]["deploy"]["replicas"] == expected
    group: Any = get_command(app).commands["cluster"]  # type: ignore[attr-defined]
    (project,) = (option for option in group.commands["status"].params if option.name == "project")
    assert f"COMPOSE_PROJECT_NAME={project.default}" in (HERE / ".env").read_text().splitlines()


def fake(folder: Path, name: str, script: str) -> None:
    """A program on the path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder on PATH, empty; state is kept in another."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("OATMILL")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with 2."""
    assert run_command(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("oatmill: error: ")
    return lines[0]


@pytest.mark.usefixtures("only")
@pytest.mark.parametrize("command", [["up"], ["scale", "--actors", "2"], ["status"], ["down"]])
def test_no_engine_is_one_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "no container engine with Compose was found; install Docker" in refused(["cluster", *command], capsys)


def test_docker_without_compose_is_no_engine(only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake(only, "docker", "echo \"docker: 'compose' is not a docker command.\" >&2; exit 1")
    assert "no container engine with Compose was found" in refused(["cluster", "status"], capsys)


def test_an_engine_that_does_not_run_is_named(only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake(only, "docker", 'test "$1" = compose || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }')
    said = refused(["cluster", "status"], capsys)
    assert "docker is installed but does not answer (Cannot connect to the Docker daemon); start it" in said


def test_a_named_engine_that_is_not_there_is_named(
    only: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(only, "docker", "exit 0")
    monkeypatch.setenv("OATMILL_ENGINE", "nerdctl compose")
    assert "OATMILL_ENGINE=nerdctl compose: there is no such program" in refused(["cluster", "up"], capsys)


LABELS = {
    "docker": "com.docker.compose.project=p,com.docker.compose.service=actor,x=y",
    "podman": "map[com.docker.compose.project:p com.docker.compose.service:actor x:y]",
}


@pytest.mark.parametrize("engine", LABELS)
def test_containers_are_listed_by_each_engine(only: Path, engine: str) -> None:
    # Podman's templates have no .Label, so both are asked for .Labels, which they print in forms of their own.
    fake(
        only,
        engine,
        f"printf '%b\\n' '{LABELS[engine]}\\tp-actor-1\\trunning\\tUp 5 seconds (healthy)' 'map[other:x]\\ta\\tb\\tc'",
    )
    found = Engine(("compose",), engine).list("p")
    assert found == [Container("actor", "p-actor-1", "running", "Up 5 seconds (healthy)")]


def test_an_engine_that_is_named_by_its_path_is_known(only: Path) -> None:
    fake(only, "podman", "exit 0")
    fake(only, "podman-compose", "exit 0")
    assert Engine.find({ENGINE: str(only / "podman-compose")}).is_podman


@pytest.mark.parametrize(("says", "old"), [("podman-composer version  1.0.3", True), ("podman-compose version 1.6.0", False)])
def test_a_podman_compose_that_is_too_old_is_refused(only: Path, says: str, old: bool) -> None:
    fake(only, "podman", "exit 0")
    fake(only, "podman-compose", f"echo using podman version: 4.3.1; echo {says}")
    if old:
        with pytest.raises(UserError, match=r"podman-compose 1\.0 is too old"):
            Engine.find({ENGINE: "podman-compose"})
    else:
        Engine.find({ENGINE: "podman-compose"})


def test_podman_scales_down_by_removing_the_newest_containers(only: Path) -> None:
    rows = "".join(f"map[com.docker.compose.service:actor]\\tp_actor_{number}\\trunning\\tUp\\n" for number in (10, 9, 1))
    fake(only, "podman", f"test $1 = ps && printf '%b' '{rows}' || echo \"$@\" >> {only}/done")
    live = json.dumps({"live": 2, "learner": {}})
    fake(only, "podman-compose", f"echo \"$@\" >> {only}/composed; echo '{live}'")
    scale_actors(ComposeCluster(Engine(("podman-compose",), "podman"), "p"), 2)
    assert (only / "done").read_text().split() == ["rm", "--force", "--time", "30", "p_actor_10"]
    asked = (only / "composed").read_text()
    assert "--profile tools run --rm -T --no-deps operator scale --actors 2" in asked


BAD: dict[str, tuple[list[str], str]] = {
    "no cluster": (["status"], "there is no cluster oatmill; start one with `oatmill cluster up`"),
    "no cluster to scale": (["scale", "--actors", "2"], "there is no cluster oatmill"),
    "nothing to scale": (["scale"], "expected --actors N or --learners M, got neither"),
    "a name that is none": (
        ["status", "--project", "../x"],
        "--project takes at most 41 characters a-z, 0-9, - and _, got '../x'",
    ),
    "a service that must be": (
        ["up", "--without", "replay"],
        "--without takes prometheus, alertmanager, alert-log, grafana, got 'replay'",
    ),
    "a setting that is none": (["up", "cartpole", "trainer.batchsize=3"], "the nearest is trainer.batch_size"),
    "an image that is not to be had": (["up", "--image", "x:1"], "--image x:1 is not on this machine and cannot be pulled: no"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake(only, "docker", 'case "$1" in image|pull) echo no >&2; exit 1;; esac')
    arguments, expected = BAD[case]
    assert expected in refused(["cluster", *arguments], capsys)


def test_without_sources_an_image_has_to_be_named(
    only: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(only, "docker", "exit 0")
    monkeypatch.setattr(deploy.engines.start, "can_build", lambda: False)
    assert "--image is required, because this oatmill was installed without its sources" in refused(["cluster", "up"], capsys)


def test_up_hands_the_settings_over_and_a_second_one_does_not_start_replay_again(
    only: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(only, "docker", 'test "$1" = ps && printf "com.docker.compose.service=replay\\tx\\trunning\\tUp\\n"; exit 0')
    monkeypatch.setenv("OATMILL_ACTORS", "99")  # what `up` was told counts more
    arguments = ["cluster", "up", "cogs_v_clips", "--timeout", "0", "trainer.total_timesteps=1234567"]
    assert run_command([*arguments, "--actors", "3"]) == 0
    first = ComposeCluster.of("oatmill", os.environ).environment()
    assert (first["OATMILL_ACTORS"], first["OATMILL_RUN"], first["OATMILL_IMAGE"]) == ("3", "cogs_v_clips", "oatmill:0.1.0")
    for name, value in first.items():
        if name.startswith("OATMILL"):
            monkeypatch.setenv(name, value)
    # What a role makes of the mounted file and the two empty variables.
    settings = role_settings(RoleOptions(config=Path(first["OATMILL_CONFIG"])))
    assert (settings.trainer.total_timesteps, settings.env.kind, settings.actors.count) == (1234567, "cogs", 3)
    assert settings.replay.acknowledge == "durable"
    monkeypatch.delenv("OATMILL_CONFIG")
    assert run_command([*arguments, "--actors", "5", "--learners", "2"]) == 0
    second = ComposeCluster.of("oatmill", os.environ).environment()
    assert (second["OATMILL_ACTORS"], second["OATMILL_LEARNERS"]) == ("3", "2")
    assert second["OATMILL_CONFIG_DIGEST"] == first["OATMILL_CONFIG_DIGEST"]
    assert run_command([*arguments, "replay.acknowledge=memory"]) == 0
    third = ComposeCluster.of("oatmill", os.environ).environment()
    assert third["OATMILL_ACKNOWLEDGE"] == "memory"
    assert third["OATMILL_CONFIG_DIGEST"] != first["OATMILL_CONFIG_DIGEST"]
    assert "Grafana's user is admin" in capsys.readouterr().out


@pytest.mark.parametrize(("wanted", "number"), [("true", "1"), ("false", "0")])
def test_up_starts_an_evaluator_if_the_settings_enable_one(
    only: Path, capsys: pytest.CaptureFixture[str], wanted: str, number: str
) -> None:
    fake(only, "docker", 'case "$*" in *" up "*) echo "$OATMILL_EVALUATORS: $*" > "$XDG_STATE_HOME/up";; esac')
    assert run_command(["cluster", "up", "cartpole", "--timeout", "0", f"evaluator.enabled={wanted}"]) == 0
    assert "evaluator" not in capsys.readouterr().err
    count, _, command = (only.parent / "state" / "up").read_text().partition(": ")
    assert (count, "evaluator" in command.split()) == (number, True)
    assert services()["evaluator"]["deploy"]["replicas"] == "${OATMILL_EVALUATORS:-0}"


def test_up_on_ray_says_that_it_starts_no_evaluator(capsys: pytest.CaptureFixture[str]) -> None:
    # Said before Ray is asked for anything.
    assert run_command(["cluster", "up", "cartpole", "--on", "ray", "--image", "x", "evaluator.enabled=true"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == NO_EVALUATOR


def test_the_evaluator_shares_the_learners_run_folder() -> None:
    evaluator, learner = services()["evaluator"], services()["learner"]
    assert evaluator["environment"] == {"OATMILL_RUN_DIR": learner["environment"]["OATMILL_RUN_DIR"]}
    assert [volume for volume in learner["volumes"] if volume.startswith("runs:")] == evaluator["volumes"]
    assert evaluator["labels"] == learner["labels"], "it is started again with new settings"
    command: Any = get_command(app).commands["evaluator"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {*evaluator["command"][1:]} <= known


def test_ranks_that_do_not_divide_the_batch_are_refused(only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake(only, "docker", 'test "$1" = ps && printf "com.docker.compose.service=replay\\tx\\trunning\\tUp\\n"; exit 0')
    assert run_command(["cluster", "up", "cartpole", "--timeout", "0", "trainer.batch_size=32"]) == 0
    capsys.readouterr()
    assert "--learners 3 must divide the run's batch: trainer.batch_size=32" in refused(
        ["cluster", "scale", "--learners", "3"], capsys
    )
    config = ComposeCluster.of("oatmill", os.environ).folder / "config.yaml"
    assert yaml_format.load(config.read_text())["trainer"]["learners"] == 1


def services() -> dict[str, Any]:
    """Of compose.yaml."""
    content: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text())["services"]
    return content


def test_every_container_is_bounded_and_may_do_nothing_special() -> None:
    assert {*services()} == {*SERVICES, "operator"}
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert not {"privileged", "network_mode", "pid", "user"} & service.keys(), name
        if name not in {"keys", "operator"}:
            assert {"cpus", "memory"} == {*service["deploy"]["resources"]["limits"]}, name


def test_every_role_is_asked_for_a_key_and_sees_its_own_alone() -> None:
    roles = {"replay": "server", "learner": "learner", "actor": "actor", "operator": "operator"}
    for name, service in services().items():
        mounted = {volume.removesuffix(":ro") for volume in service.get("volumes", ()) if volume.startswith("keys-")}
        if name == "keys":
            assert mounted == {f"keys-{folder}:/keys/{folder}" for folder in roles.values()}
        else:
            assert mounted == ({f"keys-{roles[name]}:/keys/{roles[name]}"} if name in roles else set()), name
            assert (service.get("environment", {}).get("OATMILL_KEYS") == "/keys") == (name in roles), name
        assert "--insecure" not in str(service.get("command")), name


def test_ports_are_this_machines_own_and_images_are_pinned() -> None:
    for name, service in services().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["image"].startswith("${OATMILL_"), name
        assert not service["image"].rstrip("}").endswith((":latest", "-latest")), name
        assert ":" in service["image"].partition(":-")[2], name
