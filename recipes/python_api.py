"""The Python API: `oatmill.train` and `oatmill.load` are these functions.

The package `oatmill` is the lowest layer and must not import them, so it loads this module by its name on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.checkpoint_manifest import find_checkpoint
from oatmill.arguments import COUNT, FLAG, OR_NONE, PATH, TEXT, check_types
from oatmill.errors import UserError
from recipes.from_environment import path_of
from recipes.resolve import resolve_run
from runner.folder import find_run
from runner.hub import PREFIX, download
from runner.result import RunResult
from runner.run import check_start

if TYPE_CHECKING:
    from agent.loading import LoadedAgent
    from runner.observer import Observer

TRAIN_TYPES = {
    "recipe": TEXT + OR_NONE,
    "preset": TEXT + OR_NONE,
    "config": PATH + OR_NONE,
    "actors": COUNT + OR_NONE,
    "learners": COUNT + OR_NONE,
    "seed": COUNT + OR_NONE,
    "trust": FLAG,
}
"""The types of the arguments of `train` that are no arguments of `Run.start`, but for those that are checked elsewhere."""


def train(
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    env: str | Callable[..., Any] | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    actors: int | None = None,
    learners: int | None = None,
    seed: int | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    trust: bool = False,
    listen: str = "ipc",
    insecure: bool = False,
    keys: str | Path | None = None,
    observer: Observer | None = None,
    log_level: str = "info",
) -> RunResult:
    """Train a policy on this machine, with a recipe or on an environment, like `oatmill train`.

    Args:
        recipe: name of a built-in recipe, or `module:function`; leave it out with `env`.
        settings: changes to the settings, by dotted path (`{"trainer.gamma": 0.98}`) or nested.
        env: environment to train on without a recipe: an id, `module:function`, or a callable.
        preset: name of a preset, such as `tuned`.
        config: YAML file of settings.
        actors: number of actor processes.
        learners: number of learner ranks.
        seed: seed of trainer and actors.
        run_dir: run folder, new or empty; None creates one below `runs`.
        resume: continue the run of `run_dir`, or the newest run, from its newest checkpoint.
        trust: whether a resumed run folder may name code that this call does not name.
        listen: `ipc`, or `tcp://HOST[:PORT]` so that actors on other machines can join.
        insecure: listen on the network without keys.
        keys: folder of keys, created by `oatmill keygen`.
        observer: object that receives progress; None writes lines to standard error.
        log_level: log level of all processes.

    Returns:
        The fields of summary.json.

    Raises:
        UserError: if the run cannot be started.
        RunError: if the run started and failed; its folder is kept, with a summary.
    """
    check_start(locals(), TRAIN_TYPES)
    folder, file = (None if path is None else Path(path) for path in (run_dir, config))
    flags = {"actors.count": actors, "trainer.learners": learners, "trainer.seed": seed, "actors.seed": seed}
    resumed = find_run(folder) if resume else None
    named = env if env is None or isinstance(env, str) else path_of(env)
    changes = {"preset": preset, "config": file, "flags": flags, "settings": settings}
    run = resolve_run(recipe, (), env=named, resumed=resumed, trust=trust, **changes)  # type: ignore[arg-type]
    how = {"listen": listen, "insecure": insecure, "keys": keys, "observer": observer, "log_level": log_level}
    return run.start(run_dir=folder, resume=resume, **how)  # type: ignore[arg-type]


def load(path: str | Path, *, seed: int = 0, trust: bool = False) -> LoadedAgent:
    """Load a trained policy for inference on the CPU.

    Args:
        path: run folder (its newest checkpoint is loaded), folder of a checkpoint, or `hf://NAMESPACE/NAME`, a policy
            that `oatmill push` has uploaded to the Hugging Face Hub: only its settings and weights are downloaded.
        seed: seed for sampling actions.
        trust: whether the checkpoint may name its own code, such as an encoder.

    Returns:
        The policy; `act(observations)` takes a batch `[N, ...]`.

    Raises:
        UserError: if there is no complete checkpoint, or it names code without `trust`, or on the Hub.
    """
    check_types(locals(), {"path": PATH, "seed": COUNT, "trust": FLAG})
    from agent.loading import load as load_checkpoint  # noqa: PLC0415  (loads torch)

    if str(path).startswith(PREFIX):
        if trust:
            raise UserError(
                f"{path}: a policy from the Hub never runs code, so trust=True is not allowed; download it to use trust=True"
            )
        return load_checkpoint(download(str(path)), seed=seed)
    return load_checkpoint(find_checkpoint(Path(path)), seed=seed, trust=trust)
