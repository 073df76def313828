"""The model card of a policy: README.md, with the metadata that the Hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from actors.settings import SELECTED_BY
from agent.exporting.formats import Exported
from agent.exporting.policy import Port
from agent.spec import AgentSpec
from deploy.publishing.onnx_snippet import onnx_snippet
from oatmill.settings import yaml_format
from oatmill.settings.flat import flatten_settings
from oatmill.trust import names_code
from runner.observer import counted
from runner.settings import RunSettings


@dataclass(frozen=True)
class Policy:
    """What a card tells.

    Attributes:
        repository: NAMESPACE/NAME.
        recipe: name of the built-in recipe, or `own`.
        preset: name of the preset, if one was used.
        settings: the settings that may be shown, nested.
        recipe_settings: the settings of the built-in recipe.
        withheld: paths of the settings that were left out.
        manifest: the checkpoint's manifest.
        evaluations: of `Evaluation.to_dict`; with deterministic actions first; empty if nothing was played.
        exported: the ONNX file, if there is one.
        video: name of the video file, if there is one.
    """

    repository: str
    recipe: str
    preset: str | None
    settings: Mapping[str, Any]
    recipe_settings: RunSettings | None
    withheld: Sequence[str]
    manifest: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]
    exported: Exported | None
    video: str | None

    @property
    def environment(self) -> str:
        """The environment's id, game or mission."""
        env = self.settings["env"]
        return str(env.get(SELECTED_BY[env["kind"]], env["kind"]))


def card(policy: Policy) -> str:
    """The content of README.md."""
    parts = ["---", yaml_format.dump(metadata(policy)).rstrip(), "---", "", *introduction(policy)]
    for section in (returns, usage, onnx_usage, settings):
        parts += section(policy)
    return "\n".join(parts)


def metadata(policy: Policy) -> dict[str, Any]:
    """What the Hub reads: tags, and the deterministic return."""
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "oatmill", policy.environment]
    content: dict[str, Any] = {"library_name": "oatmill", "tags": tags}
    if not policy.evaluations:
        return content
    got = policy.evaluations[0]["episode_return"]
    metric = {
        "type": "mean_reward",
        "name": "mean_reward",
        "value": f"{got['mean']:.2f} +/- {got['std']:.2f}",
        "verified": False,
    }
    result = {
        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
        "dataset": {"name": policy.environment, "type": policy.environment},
        "metrics": [metric],
    }
    return content | {"model-index": [{"name": policy.repository.partition("/")[2], "results": [result]}]}


def introduction(policy: Policy) -> Iterator[str]:
    """What was trained, how, and how far."""
    preset = f" with the preset `{policy.preset}`" if policy.preset else ""
    how = "its author's own settings" if policy.recipe == "own" else f"the recipe `{policy.recipe}`{preset}"
    trainer = policy.settings["trainer"]
    losses = [*(name for name, loss in trainer["losses"].items() if loss["enabled"]), *trainer["extra_losses"]]
    yield f"# {policy.environment}, trained with oatmill"
    yield ""
    yield (
        f"A policy for {code(policy.environment)}, trained with oatmill {version('oatmill')} and {how}: "
        f"{policy.manifest['env_steps']:,} env steps in {counted(policy.manifest['learner_step'], 'learner step')}. "
        f"Losses: {', '.join(map(code, losses))}."
    )
    yield ""
    if policy.video:
        yield from (f'<video controls autoplay loop src="./{policy.video}"></video>', "")


def returns(policy: Policy) -> Iterator[str]:
    """A table of the returns."""
    if not policy.evaluations:
        return
    yield from ("## Returns", "", "| Actions | Episodes | Return (mean ± std) | Length |", "|---|---|---|---|")
    for one in policy.evaluations:
        got, how = one["episode_return"], "most likely" if one["deterministic"] else "sampled"
        yield f"| {how} | {got['n']} | {got['mean']:.2f} ± {got['std']:.2f} | {one['episode_length']:.1f} |"
    baseline = policy.evaluations[0]["random_return"]
    yield ""
    yield f"Played with seed {policy.evaluations[0]['seed']} after training." + (
        "" if baseline is None else f" The random policy gets {baseline:g}."
    )
    yield ""


def usage(policy: Policy) -> Iterator[str]:
    """How the policy is loaded and played with oatmill."""
    yield from ("## Use it with oatmill", "")
    encoder = policy.settings["agent"]["encoder"]
    if names_code(encoder):
        yield from (
            f"The network is its author's own code, {code(encoder)}, which is not part of this repository. With that module in "
            "the current folder:",
            "",
            *fenced("sh", f"hf download {policy.repository} --local-dir policy", "oatmill eval policy --trust"),
        )
        return
    yield from fenced(
        "python",
        "import oatmill  # pip install 'oatmill[hub]'",
        "",
        f'policy = oatmill.load("hf://{policy.repository}")',
        "action = policy.act(observation, deterministic=True)  # one observation, or a batch [N, ...]",
    )
    yield from fenced("sh", f"hf download {policy.repository} --local-dir policy", "oatmill eval policy --deterministic")


def onnx_usage(policy: Policy) -> Iterator[str]:
    """How the ONNX file is run, and what it takes and returns."""
    if policy.exported is None:
        return
    inputs, outputs = policy.exported.inputs, policy.exported.outputs
    spec = AgentSpec.from_dict(policy.manifest["agent"])
    yield from ("## Use it with onnxruntime", "")
    yield from fenced("python", *onnx_snippet(policy.repository, policy.settings["env"], spec, policy.exported))
    yield from ("| | Name | Dtype | Shape |", "|---|---|---|---|")
    for way, ports in (("input", inputs), ("output", outputs)):
        yield from (port_row(way, port) for port in ports)
    yield ""
    yield from ("An image is `[channels, height, width]`, and the value of a Discrete space a one-hot vector.", "")
    if spec.core_state_size:
        yield from ("`state` is zeros at the start of an episode, and `next_state` of the step before after that.", "")


def port_row(way: str, port: Port) -> str:
    """A row of the table of inputs and outputs."""
    return f"| {way} | {code(port.name)} | {port.dtype} | `[{', '.join(['N', *map(str, port.shape)])}]` |"


def settings(policy: Policy) -> Iterator[str]:
    """The settings that differ from the recipe's, and what was left out."""
    yield from ("## Settings", "")
    without = (
        f", except those that its author did not upload: {', '.join(map(code, policy.withheld))}" if policy.withheld else ""
    )
    yield from (f"`config.yaml` has all settings{without}.", "")
    if policy.recipe_settings is None:
        return
    ours, recipe = flatten_settings(policy.settings), flatten_settings(policy.recipe_settings.to_dict())
    changed = [path for path in ours if ours[path] != recipe.get(path)]
    if changed:
        yield from (f"These differ from the recipe `{policy.recipe}`:", "", "| Setting | Here | Recipe |", "|---|---|---|")
        for path in changed:
            yield f"| {code(path)} | {code(json.dumps(ours[path]))} | {code(json.dumps(recipe.get(path)))} |"
        yield ""


def fenced(language: str, *lines: str) -> list[str]:
    """A block of code."""
    return [f"```{language}", *lines, "```", ""]


def code(text: str) -> str:
    """Text in code style; what would end it, or a cell of a table, is replaced."""
    return f"`{' '.join(text.split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"
