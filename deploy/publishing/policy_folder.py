"""A folder with a trained policy for others: checkpoint, settings, ONNX file, video and model card."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.checkpoint_manifest import MODEL_FILE, NEEDED, find_checkpoint, open_manifest, write_manifest
from agent.exporting.formats import Exported, check_packages, write
from agent.loading import load
from deploy.publishing.card import Policy, card
from deploy.publishing.public_settings import PublicSettings, public_settings
from oatmill.errors import OatmillError, UserError
from oatmill.files.atomic import write_file
from oatmill.settings import yaml_format
from recipes.registry import BUILT_IN, find_recipe
from runner.evaluation.video import PACKAGES
from runner.folder import read_json
from runner.settings import RunSettings

CARD, CONFIG, ONNX, VIDEO = "README.md", "config.yaml", "policy.onnx", "replay.mp4"
SHORTEST = 6
"""Texts with fewer characters than this are not searched for: they are in any file."""
Play = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Plays episodes, given the arguments of `runner.evaluation.evaluation.evaluated`; returns `Evaluation.to_dict`."""


@dataclass(frozen=True)
class Wanted:
    """What is put into the folder.

    Attributes:
        run: a run folder (its newest checkpoint is taken), or a checkpoint.
        repository: NAMESPACE/NAME, for the card.
        episodes: episodes to play with deterministic actions, and as many with drawn ones; 0 plays none.
        seed: their seed.
        publish: paths of settings that are shown although they may be secrets.
        trust: run custom environment and encoder code that the checkpoint names.
    """

    run: Path
    repository: str
    episodes: int
    seed: int
    publish: Sequence[str]
    trust: bool


def write_policy_folder(folder: Path, wanted: Wanted, play: Play) -> list[str]:
    """Write all files.

    Args:
        folder: an empty folder.
        wanted: what is put into it.
        play: plays the episodes.

    Returns:
        What was left out and why, one line each.

    Raises:
        UserError: if there is no such checkpoint, it names code without trust, or its settings cannot be shown.
        RunError: if the environment fails.
    """
    checkpoint = find_checkpoint(wanted.run)
    agent = load(checkpoint, trust=wanted.trust)
    settings = RunSettings.of(agent.manifest["settings"])
    names = names_of(checkpoint)
    recipe = find_recipe(names["recipe"]).settings() if names["recipe"] in BUILT_IN else None
    public = public_settings(settings, recipe, wanted.publish)
    notes = [f"{path} is not uploaded; --publish {path} allows it" for path in public.withheld]
    write_checkpoint(folder, checkpoint, public)
    write_file(folder / CONFIG, yaml_format.dump(public.values))
    exported: Exported | None = None
    evaluations: list[Mapping[str, Any]] = []
    try:
        check_packages("onnx")
        exported = write(agent, folder / ONNX, "onnx")
    except UserError as error:
        notes.append(f"without an ONNX file: {error}")
    if wanted.episodes:
        evaluations, played = play_both(folder, checkpoint, wanted, play)
        notes += played
    policy = Policy(
        repository=wanted.repository,
        recipe=names["recipe"] if recipe else "own",
        preset=names["preset"],
        settings=public.values,
        recipe_settings=recipe,
        withheld=tuple(public.withheld),
        manifest=agent.manifest,
        evaluations=evaluations,
        exported=exported,
        video=VIDEO if (folder / VIDEO).exists() else None,
    )
    write_file(folder / CARD, card(policy))
    refuse_private(folder, [*public.texts(), str(Path.home()), str(checkpoint.parent)])
    return notes


def new_folder(path: Path) -> Path:
    """Make a folder for the files.

    Raises:
        UserError: if it is not new or empty, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UserError(f"--dry-run {path} must be a new or empty folder, but it has files")
    except OSError as error:
        raise UserError(f"--dry-run {path} cannot be created: {error.strerror}; give another folder") from None
    return path


def names_of(checkpoint: Path) -> dict[str, Any]:
    """The recipe and the preset of the run that a checkpoint belongs to; None if they are not known."""
    run = checkpoint.parent.parent
    found = read_json(run / "summary.json") or read_json(run / "run.json")
    return {name: found.get(name) for name in ("recipe", "preset")}


def write_checkpoint(folder: Path, checkpoint: Path, public: PublicSettings) -> None:
    """Write what acting needs of a checkpoint: the network, and a manifest with the settings that may be shown."""
    manifest = open_manifest(checkpoint)
    shutil.copyfile(checkpoint / MODEL_FILE, folder / MODEL_FILE)
    entries = {name: manifest[name] for name in NEEDED if name != "files"}
    write_manifest(folder, entries | {"settings": public.values}, [MODEL_FILE])


def play_both(folder: Path, checkpoint: Path, wanted: Wanted, play: Play) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Play with deterministic actions, which are also filmed, and with drawn ones; returns both, and notes."""
    given = {"path": str(checkpoint), "episodes": wanted.episodes, "seed": wanted.seed, "trust": wanted.trust}
    video, notes = folder / VIDEO, []
    if all(importlib.util.find_spec(package) for package in PACKAGES[video.suffix]):
        try:
            filmed = play({**given, "deterministic": True, "record": str(video)})
        except OatmillError as error:
            notes.append(f"without a video: {error}")
            filmed = play({**given, "deterministic": True, "record": None})
    else:
        notes.append("without a video: pip install 'oatmill[video]' makes one")
        filmed = play({**given, "deterministic": True, "record": None})
    return [filmed, play({**given, "deterministic": False, "record": None})], notes


def refuse_private(folder: Path, texts: Sequence[str]) -> None:
    """Raise a UserError if a file has a text that must not leave this machine."""
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for text in texts:
            if len(text) >= SHORTEST and text.encode() in content:
                raise UserError(
                    f"{path.name} would show a value that is not to be uploaded, such as a path of this machine or a text of "
                    "env.kwargs; rename what has the same text, or allow the setting with --publish KEY"
                )
