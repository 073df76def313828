"""Evaluates a checkpoint for `oatmill eval` in a separate process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oatmill.children.worker import Answer, serve
from runner.evaluation.evaluation import evaluated


def answer_with_evaluation(values: Any, answer: Answer) -> None:
    """Play, send the result, and close the environment.

    Args:
        values: the arguments of `runner.evaluation.evaluation.evaluated`.
        answer: receives `Evaluation.to_dict`.
    """
    record = values.pop("record")
    path = Path(values.pop("path"))
    with evaluated(path, record=None if record is None else Path(record), **values) as evaluation:
        answer.result(evaluation.to_dict())


if __name__ == "__main__":
    serve(answer_with_evaluation)
