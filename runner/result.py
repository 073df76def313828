"""The result of a run: summary.json, and the same as a Python object."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from learner.reporting.evaluations import EVALUATIONS_FILE
from oatmill.files.json_lines import last_line
from oatmill.files.run_files import LEARNER_FILE
from oatmill.json_values import without_nonfinite
from runner.folder import read_json
from runner.metrics_table import metrics_table
from runner.observer import number, value

PACKAGES = ("oatmill", "torch", "numpy", "pyzmq", "gymnasium", "mettagrid", "minigrid", "ale-py", "pettingzoo")
EVALUATION = ("deterministic", "drawn", "env_steps", "checkpoint")
NO_RETURN: Mapping[str, Any] = {"mean": None, "std": None, "n": 0}


@dataclass(frozen=True, repr=False)
class RunResult:
    """The fields of summary.json. Values that are missing or not finite are None.

    Attributes:
        run_dir: run folder.
        recipe: name of the recipe.
        seed: seed of the trainer.
        preset: name of the preset, if one was used.
        outcome: `done`, `stopped` (on request) or `failed`.
        error: reason of the failure.
        env_steps: number of environment steps trained on; replayed steps count once.
        learner_steps: number of batches trained on.
        policy_version: newest policy version; -1 if there is none.
        seconds: training time.
        env_steps_per_second: from the first learner step to the last.
        episode_return: mean, std and n of the last (at most 100) episodes.
        eval_return: the newest evaluation: mean, std and n of `deterministic` and `drawn` actions; None without an
            evaluator.
        episode_length: mean length of the last (at most 100) episodes.
        episode_statistics: means of the statistics that the environment reports.
        episode_info: the same means, under the name of the metric `oatmill_episode_info`.
        losses: values by loss: raw, coef, weighted, share, gradient_norm, gradient_share, and its
            terms.
        entropy: policy entropy in nats, and as a fraction of the uniform policy's.
        explained_variance: explained variance of the value head.
        policy_lag: p50 and p99, in policy versions.
        red_flags: all red flags that were raised, with reasons.
        ledger: number of trajectories by outcome.
        actor_restarts: total number of actor restarts.
        git_commit: commit of the working folder's repository, with `-dirty` after it if tracked files had changed; None
            outside of a repository.
        versions: versions of Python, oatmill and its main dependencies.
    """

    run_dir: str
    recipe: str
    seed: int
    preset: str | None
    outcome: str
    error: str | None
    env_steps: int
    learner_steps: int
    policy_version: int
    seconds: float | None
    env_steps_per_second: float | None
    episode_return: Mapping[str, Any]
    episode_length: float | None
    episode_statistics: Mapping[str, Any]
    episode_info: Mapping[str, Any]
    losses: Mapping[str, Mapping[str, Any]]
    entropy: Mapping[str, Any]
    explained_variance: float | None
    policy_lag: Mapping[str, Any]
    red_flags: Sequence[Mapping[str, Any]]
    ledger: Mapping[str, Any]
    actor_restarts: int
    versions: Mapping[str, str]
    git_commit: str | None = None
    eval_return: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        """How well, how far and how fast, in one line; the attributes have the rest."""
        mean, std = (number(self.episode_return.get(name), ".2f") for name in ("mean", "std"))
        flags = ", ".join(str(flag["flag"]) for flag in self.red_flags) or "none"
        return (
            f"<RunResult {self.recipe}, {self.outcome}: return {mean} +- {std}, {self.env_steps:,} env steps in "
            f"{number(self.seconds, '.1f')} s ({number(self.env_steps_per_second, ',.0f')}/s), red flags: {flags}, "
            f"{self.run_dir}>"
        )

    def _repr_html_(self) -> str:
        """Returns, losses, red flags, ledger and paths as tables, for notebooks."""
        from runner.notebook import result_html  # noqa: PLC0415  (only notebooks need it)

        return result_html(self)

    def metrics(self) -> Any:
        """The run's reported learner steps as a pandas DataFrame, one row each.

        Raises:
            UserError: if pandas is not installed, or no learner step was reported.
        """
        return metrics_table(Path(self.run_dir))

    def to_dict(self) -> dict[str, Any]:
        """The content of summary.json."""
        plain: dict[str, Any] = without_nonfinite(dataclasses.asdict(self))
        return plain


@dataclass(frozen=True)
class Identity:
    """The names of a run.

    Attributes:
        run_dir: run folder.
        recipe: name of the recipe.
        seed: seed of the trainer.
        preset: name of the preset, if one was used.
        git_commit: commit of the working folder's repository.
    """

    run_dir: Path
    recipe: str
    seed: int
    preset: str | None
    git_commit: str | None = None


def compose(
    identity: Identity,
    *,
    outcome: str,
    error: str | None,
    last_line: Mapping[str, Any] | None,
    status: Mapping[str, Any],
    actor_restarts: int,
) -> RunResult:
    """Compose the result from what the learner, the hub and the supervisor report.

    Args:
        identity: names of the run.
        outcome: `done`, `stopped` or `failed`.
        error: reason of the failure.
        last_line: the last line of metrics.jsonl, for a learner that could not write its summary.
        status: the hub's last answer; empty if there is none.
        actor_restarts: total number of actor restarts.
    """
    learner = read_json(identity.run_dir / LEARNER_FILE) or _from_line(last_line or {})
    fleet, version = status.get("fleet") or {}, learner.get("policy_version")
    newest = fleet if value(fleet, "episode_return", "n") else learner
    statistics = newest.get("statistics") or newest.get("episode_statistics") or {}
    return RunResult(
        run_dir=str(identity.run_dir),
        recipe=identity.recipe,
        seed=identity.seed,
        preset=identity.preset,
        outcome=outcome,
        error=error,
        env_steps=learner.get("env_steps") or 0,
        learner_steps=learner.get("learner_steps") or 0,
        policy_version=-1 if version is None else version,
        seconds=learner.get("seconds"),
        env_steps_per_second=learner.get("env_steps_per_second"),
        episode_return=newest.get("episode_return") or NO_RETURN,
        eval_return=newest_evaluation(identity.run_dir),
        episode_length=newest.get("episode_length"),
        episode_statistics=statistics,
        episode_info=statistics,
        losses=learner.get("losses") or {},
        entropy=learner.get("entropy") or {"nats": None, "fraction": None},
        explained_variance=learner.get("explained_variance"),
        policy_lag=learner.get("policy_lag") or {"p50": None, "p99": None},
        red_flags=learner.get("red_flags") or [],
        ledger=status.get("ledger") or {},
        actor_restarts=actor_restarts,
        git_commit=identity.git_commit,
        versions=versions(),
    )


def newest_evaluation(run_dir: Path) -> dict[str, Any] | None:
    """The last line of the evaluator's file; None if there is none."""
    line = last_line(run_dir / EVALUATIONS_FILE)
    return None if line is None else {name: line.get(name) for name in EVALUATION}


def versions() -> dict[str, str]:
    """Versions of Python, oatmill and the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _from_line(line: Mapping[str, Any]) -> dict[str, Any]:
    flags = [{"flag": flag, "why": ""} for flag in line.get("red_flags") or []]
    return {**line, "learner_steps": line.get("learner_step"), "red_flags": flags}
