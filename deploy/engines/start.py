"""Starts and scales a cluster on Compose, and waits until it trains."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.engines.compose import DEFAULT_IMAGE, SERVICES, ComposeCluster, Container, can_build
from oatmill.errors import RunError, UserError
from oatmill.settings import yaml_format
from oatmill.settings.flat import flatten_settings
from runner.settings import RunSettings, prepared

OPTIONAL = ("prometheus", "alertmanager", "alert-log", "grafana")
POLL_S = 1.0
SCALED_WITHIN_S = 120.0
LOG_LINES = 12
PAGES = {
    "grafana": ("Grafana", "OATMILL_GRAFANA_PORT", "3000"),
    "prometheus": ("Prometheus", "OATMILL_PROMETHEUS_PORT", "9090"),
    "alertmanager": ("Alertmanager", "OATMILL_ALERTMANAGER_PORT", "9093"),
}


@dataclass(frozen=True)
class Start:
    """The arguments of `oatmill cluster up`.

    Attributes:
        settings: the run's settings.
        recipe: the name of the run's recipe.
        run: the run's name, which is a folder in the volume of runs.
        image: the image of all roles; None builds one.
        gpu: whether the learner gets this machine's GPUs.
        without: services that are left out.
        timeout_s: how long to wait for a learner step; 0 does not wait.
    """

    settings: RunSettings
    recipe: str
    run: str
    image: str | None
    gpu: bool
    without: tuple[str, ...]
    timeout_s: float


def start(cluster: ComposeCluster, wanted: Start) -> Iterator[str]:
    """Start a cluster, and yield lines for the user.

    Raises:
        UserError: if there is no image, or `without` names a service that is required.
        RunError: if no learner step is done in time.
    """
    began = time.monotonic()
    for name in wanted.without:
        if name not in OPTIONAL:
            raise UserError(f"--without takes {', '.join(OPTIONAL)}, got {name!r}")
    image = checked_image(cluster, wanted.image)
    if "acknowledge" not in wanted.settings.replay.model_fields_set:
        wanted.settings.replay.acknowledge = "durable"
    settings, notes = prepared(wanted.settings)
    yield from notes
    refuse_what_is_over(cluster, wanted, settings)
    keep_start(cluster, wanted, settings, image)
    if wanted.image is None and not cluster.engine.has_image(image):
        yield f"building {image} (once; a few minutes)"
        cluster.do("build", "replay", *(["learner"] if wanted.gpu else []))
    count = settings.actors.count
    services = [name for name in SERVICES if name not in wanted.without]
    up = ["up", "--detach", "--no-build", "--remove-orphans", "--scale", f"actor={count}"]
    if cluster.engine.is_podman:
        up += podman_first(cluster, services, evaluator=settings.evaluator.enabled)
    cluster.do(*up, *services)
    if wanted.timeout_s:
        status = until_trained(cluster, began + wanted.timeout_s)
        if not status["stop"]:
            tell_desired(cluster, count)
        step, took = status["learner"].get("learner_step"), time.monotonic() - began
        actors = "the run is over" if status["stop"] else f"{status['live']} of {count} actors live"
        yield f"learner step {step} after {took:.0f} s; {actors}"
    yield from pages_of(cluster, services)


def podman_first(cluster: ComposeCluster, services: list[str], *, evaluator: bool) -> list[str]:
    """Start `keys` and shorten the list of services for podman-compose; returns options for its `up`.

    With --scale, podman-compose starts one container of every other service, also where compose.yaml says 0. Podman does
    not restart a failed container if a container that it depends on has ended, and `keys` ends at once. So `keys` runs
    first, and the other services are started without dependencies.

    Args:
        cluster: the cluster.
        services: the services to start; those that `up` must not name are removed.
        evaluator: whether an evaluator is wanted.
    """
    if not evaluator:
        services.remove("evaluator")
    services.remove("keys")
    cluster.do("up", "--no-build", "keys")
    return ["--no-deps"]


def refuse_what_is_over(cluster: ComposeCluster, wanted: Start, settings: RunSettings) -> None:
    """Refuse to start the containers of a run that is over. Its hub would tell them to leave.

    Raises:
        UserError: if the cluster has this run with the same settings, and it is over.
    """
    before = cluster.kept.get("environment", {})
    same = (before.get("OATMILL_RUN"), before.get("OATMILL_CONFIG_DIGEST")) == (wanted.run, digest_of(settings.to_dict()))
    status = cluster.status() if same and cluster.containers() else None
    if status is None or not status["stop"]:
        return
    env_steps, total = status["learner"].get("env_steps", 0), settings.trainer.total_timesteps
    way = (
        "raise trainer.total_timesteps to continue it" if env_steps >= total else "`oatmill cluster down` and `up` continue it"
    )
    raise UserError(
        f"the run {wanted.run} is over, after {env_steps:,} of {total:,} env steps; {way}, or start another one with --run NAME"
    )


def pages_of(cluster: ComposeCluster, services: Sequence[str]) -> Iterator[str]:
    """Lines with the addresses of the monitoring pages."""
    environ = cluster.environment()
    for service, (title, variable, port) in PAGES.items():
        if service in services:
            yield f"{title:<13}http://127.0.0.1:{environ.get(variable) or port}"
    if "grafana" in services:
        words = " ".join(cluster.command("exec", "grafana", "cat", "/secrets/password"))
        yield f"Grafana's user is admin; its password: {words}"


def checked_image(cluster: ComposeCluster, image: str | None) -> str:
    """The name of the image to run; it is on this machine, was pulled, or must be built.

    Raises:
        UserError: if there is no such image.
    """
    if image is not None:
        if not cluster.engine.has_image(image):
            cluster.engine.pull(image)
        return image
    if not can_build():
        raise UserError(
            "--image is required, because this oatmill was installed without its sources and cannot build an image; give an "
            "image that was built from the sources with `docker build -f deploy/Dockerfile .`"
        )
    return cluster.environment().get("OATMILL_IMAGE") or DEFAULT_IMAGE


def keep_start(cluster: ComposeCluster, wanted: Start, settings: RunSettings, image: str) -> None:
    """Store the values that later commands need to find the same cluster."""
    values = settings.to_dict()
    before = cluster.kept.get("environment", {}) if cluster.containers() else {}
    environment = {
        "OATMILL_IMAGE": image,
        "OATMILL_RUN": wanted.run,
        # The file has every setting, so the image does not need the recipe's module.
        "OATMILL_RECIPE": "",
        "OATMILL_PRESET": "",
        "OATMILL_CONFIG": str(cluster.folder / "config.yaml"),
        "OATMILL_ACKNOWLEDGE": settings.replay.acknowledge,
        "OATMILL_CONFIG_DIGEST": digest_of(values),
        # The number that the hub started with: a change is sent to the hub and does not restart it.
        "OATMILL_ACTORS": before.get("OATMILL_ACTORS") or str(settings.actors.count),
        "OATMILL_LEARNERS": str(settings.trainer.learners),
        "OATMILL_EVALUATORS": str(int(settings.evaluator.enabled)),
    }
    content = {"gpu": wanted.gpu, "recipe": wanted.recipe, "environment": environment}
    cluster.keep(content, yaml_format.dump(values))


def digest_of(values: dict[str, Any]) -> str:
    """A hash of the settings whose change restarts all roles."""
    flat = flatten_settings(values)
    flat.pop("actors.count")
    flat.pop("trainer.learners")
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


def until_trained(cluster: ComposeCluster, deadline: float) -> dict[str, Any]:
    """Wait for a learner step.

    Raises:
        RunError: if a container keeps failing, or there is no learner step in time. The last lines of
            the log are printed before.
    """
    while True:
        status = cluster.status()
        if status is not None and status["learner"].get("learner_step"):
            return status
        broken = [one for one in cluster.containers() if one.state in {"restarting", "dead"}]
        if broken or time.monotonic() > deadline:
            raise fault(cluster, broken)
        time.sleep(POLL_S)


def fault(cluster: ComposeCluster, broken: list[Container]) -> RunError:
    """The error for a cluster without a learner step in time."""
    service = broken[0].service if broken else "learner"
    for line in cluster.logs(service, LOG_LINES):
        sys.stderr.write(f"  {service}: {line}\n")
    if broken:
        return RunError(
            f"{broken[0].name} fails ({broken[0].status}); its last lines are above; `oatmill cluster down` stops the cluster"
        )
    return RunError("there was no learner step in time; see `oatmill cluster status`, or raise --timeout")


def running(cluster: ComposeCluster) -> list[Container]:
    """The containers of a cluster.

    Raises:
        UserError: if there are none.
    """
    found = cluster.containers()
    if not found:
        raise UserError(f"there is no cluster {cluster.project}; start one with `oatmill cluster up`")
    return found


def scale_actors(cluster: ComposeCluster, count: int) -> None:
    """Set the target number of actors in the hub, and start or stop containers accordingly.

    Raises:
        UserError: if there is no such cluster.
        RunError: if the number is not reached in time.
    """
    running(cluster)
    tell_desired(cluster, count)
    cluster.do("up", "--detach", "--no-build", "--no-recreate", "--no-deps", "--scale", f"actor={count}", "actor")
    if cluster.engine.is_podman:  # podman-compose adds containers, but removes none
        actors = [one for one in cluster.containers() if one.service == "actor"]
        if surplus := sorted(actors, key=lambda one: (len(one.name), one.name))[count:]:
            cluster.engine.remove(surplus)
    wait_for(lambda: live_actors(cluster) == count, f"{count} live actors")


def tell_desired(cluster: ComposeCluster, count: int) -> None:
    """Send the target number of actors to the hub.

    Raises:
        RunError: if the hub does not answer.
    """
    sent = cluster.ask("scale", "--actors", str(count))
    if sent.returncode:
        raise RunError(f"the hub could not be scaled to {count} actors: {(sent.stderr.splitlines() or ['no answer'])[-1]}")


def live_actors(cluster: ComposeCluster) -> int | None:
    """The number of actors that send heartbeats; None if the hub does not answer."""
    status = cluster.status()
    return None if status is None else int(status["live"])


def scale_learners(cluster: ComposeCluster, ranks: int) -> None:
    """Restart the learner with another number of ranks. It saves a checkpoint and resumes from it.

    Raises:
        UserError: if there is no such cluster, or its batch cannot be divided by the number of ranks.
    """
    running(cluster)
    path = cluster.folder / "config.yaml"
    if not path.exists():
        raise UserError(
            f"{cluster.project} was not started by `oatmill cluster up`; set OATMILL_LEARNERS={ranks} and start it again"
        )
    values = yaml_format.load(path.read_text())
    trainer = values["trainer"]
    unit = ranks * trainer["minibatches"]
    if trainer["batch_size"] % unit:
        raise UserError(
            f"--learners {ranks} must divide the run's batch: trainer.batch_size={trainer['batch_size']} is not a multiple of "
            f"{ranks} x trainer.minibatches={trainer['minibatches']}"
        )
    trainer["learners"] = ranks
    kept = cluster.kept
    kept["environment"]["OATMILL_LEARNERS"] = str(ranks)
    cluster.keep(kept, yaml_format.dump(values))
    cluster.do("up", "--detach", "--no-build", "--no-deps", "learner")


def wait_for(done: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds.

    Raises:
        RunError: if it does not hold in time.
    """
    deadline = time.monotonic() + SCALED_WITHIN_S
    while not done():
        if time.monotonic() > deadline:
            raise RunError(f"expected {what} within {SCALED_WITHIN_S:g} s; see `oatmill cluster status`")
        time.sleep(POLL_S)
