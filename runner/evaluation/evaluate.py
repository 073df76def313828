"""`python -m runner.evaluation.evaluate`: plays a checkpoint's policy for `oatmill eval`, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oatmill.children.apart import Answer, serve
from runner.evaluation.evaluation import evaluated


def answer_with_evaluation(values: Any, answer: Answer) -> None:
    """Play, say what came of it, and close the environment.

    Args:
        values: the arguments of `runner.evaluation.evaluation.evaluated`.
        answer: gets `Evaluation.to_dict`.
    """
    record = values.pop("record")
    path = Path(values.pop("path"))
    with evaluated(path, record=None if record is None else Path(record), **values) as evaluation:
        answer.result(evaluation.to_dict())


if __name__ == "__main__":
    serve(answer_with_evaluation)
