"""The reported learner steps of a run: its lines of metrics.jsonl, and the same as a pandas DataFrame."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oatmill.errors import UserError
from oatmill.files.run_files import CONFIG_FILE, METRICS_FILE

Lines = Sequence[Mapping[str, Any]]


def read_lines(run_dir: Path) -> Lines:
    """The reported learner steps of a run.

    Raises:
        UserError: if there are none.
    """
    path = run_dir / METRICS_FILE
    try:
        texts = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and (run_dir / CONFIG_FILE).is_file():
            raise UserError(f"{run_dir}: the run has not reported a learner step yet") from None
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read ({why}); expected a run folder, such as runs/latest") from None
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            if number < len(texts):  # the last line may be cut off, by a full disk or a crash
                raise UserError(f"{path}, line {number}, is damaged ({error}); remove this line") from None
    if not lines:
        raise UserError(f"{path} is empty: the run has not reported a learner step yet")
    return surviving(lines)


def surviving(lines: Lines) -> Lines:
    """Leave out the lines of steps that were repeated after a restart from a checkpoint."""
    kept: list[Mapping[str, Any]] = []
    for line in lines:
        while kept and kept[-1]["learner_step"] >= line["learner_step"]:
            kept.pop()
        kept.append(line)
    return kept


def metrics_table(run_dir: Path) -> Any:
    """A pandas DataFrame with a row per reported learner step and a column per number.

    The columns have the numbers' paths as names, such as `env_steps`, `episode_return.mean` and `losses.cmpo.kl`. Terms of a
    loss are columns of the loss itself.

    Raises:
        UserError: if pandas is not installed, or the folder has no reported learner step.
    """
    try:
        import pandas  # noqa: PLC0415  (only this needs it)
    except ImportError:
        raise UserError("metrics() needs pandas; pip install pandas") from None
    table = pandas.json_normalize([dict(line) for line in read_lines(run_dir)])
    return table[[name for name in table.columns if ".terms." not in name]]
