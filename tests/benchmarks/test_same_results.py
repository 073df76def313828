"""The returns of episodes that span batches, and a comparison of the whole system with one process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.same_results import PROCESS, SYSTEM, Returns, in_one_process, main, table
from recipes.resolve import resolve_run

CARTPOLE = ("actors.synchronous=true", "trainer.total_timesteps=4096", "trainer.batch_size=32", "actors.envs_per_actor=8")


def a_batch(rewards: Any, ended: Any) -> Any:
    ended_BT = np.array(ended, bool)
    return SimpleNamespace(rewards=np.array(rewards, np.float32), terminated=ended_BT, truncated=np.zeros_like(ended_BT))


def test_returns_are_summed_over_unrolls_and_batches() -> None:
    returns = Returns(copies=2)
    # Two unrolls of two copies with two steps each.
    first = a_batch([[1, 2], [10, 20], [3, 4], [30, 40]], [[0, 0], [0, 1], [1, 0], [0, 0]])
    assert returns.of(first) == [30, 6]
    assert returns.of(a_batch([[5, 6], [50, 60]], [[0, 1], [1, 1]])) == [120, 15, 60]


def test_the_table_tells_what_differs_from_what_does_not() -> None:
    same, better = [[1.0], [2.0], [3.0], [4.0]], [[11.0], [12.0], [13.0], [14.0]]
    assert next(iter(table({SYSTEM: same, PROCESS: same}))).startswith("final      p 1")
    assert next(iter(table({SYSTEM: better, PROCESS: same}))).startswith("final      p 0.029")


def test_a_batch_must_hold_whole_unrolls() -> None:
    run = resolve_run("cartpole", [*CARTPOLE, "trainer.batch_size=12"], preset=None, config=None, flags={})
    with pytest.raises(SystemExit, match="must be a multiple of all copies, 16, got 12"):
        in_one_process(run.settings)


@pytest.mark.slow
def test_both_train_and_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cartpole", *CARTPOLE, "--seeds", "2", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["seed", "seed", "final", "whole", "one", "whole", "whole", "one"]


def test_a_finished_run_of_another_command_is_not_taken_for_this_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "seed-0"
    folder.mkdir()
    (folder / "command.json").write_text('{"asked": ["cartpole", "trainer.gamma=0.5"]}')
    with pytest.raises(SystemExit):
        main(["cartpole", "--out", str(tmp_path)])
    assert "is a run of cartpole trainer.gamma=0.5; choose another --out" in capsys.readouterr().err
