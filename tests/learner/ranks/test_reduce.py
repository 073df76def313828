"""Two real processes over gloo are one learner: the same gradient, the same losses, and equal networks to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from learner.ranks.meeting import joined
from learner.ranks.reduce import OneRank, Ranks
from learner.ranks.spawn import STORE
from learner.settings import TrainerSettings
from protocol.data.trajectory import Array
from tests.learner.ranks.rank_process import STEPS, file_name, measure, train_alone
from tests.learner.reporting.fake_gpu import NUMBERS
from tests.learner.worlds import ONE

ROOT = Path(__file__).resolve().parents[3]
CASES = ("full/gru/scalar", "baseline/none/categorical", "paper/none/scalar")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks have written what they found, case by case."""
    folder = tmp_path_factory.mktemp("ranks")
    shared = {STORE: str(folder / "store"), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.learner.ranks.rank_process", str(folder), *CASES]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=100)
        assert process.returncode == 0, error.decode()[-2000:]
    return folder


def found_by(folder: Path, case: str, rank: int) -> dict[str, Array]:
    with np.load(folder / file_name(case, rank)) as loaded:
        return dict(loaded)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_with_uneven_counts_are_one_learner(folder: Path, case: str) -> None:
    first, second = (found_by(folder, case, rank) for rank in range(2))
    alone = measure(ONE, *case.split("/"))
    for rank in (first, second):
        for name in (name for name in alone if name.startswith("gradient.")):
            np.testing.assert_allclose(rank[name], alone[name], atol=1e-6, rtol=0, err_msg=name)
        np.testing.assert_allclose(rank["sigma"], alone["sigma"], rtol=1e-6)
        for name in (name for name in alone if name.startswith("report.")):
            np.testing.assert_allclose(rank[name], alone[name], atol=1e-5, rtol=1e-4, err_msg=name)
        assert rank["agreed"].tolist() == [1, 2]
    for name in (name for name in first if name.startswith("final.")):
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], alone[name], atol=1e-5, err_msg=name)
    assert len([name for name in alone if name.startswith("report.")]) > STEPS


def test_what_is_not_finite_on_one_rank_is_applied_on_none_and_counted_on_all(folder: Path) -> None:
    first, second = (found_by(folder, "nan", rank) for rank in range(2))
    assert (bool(first["own_losses_finite"]), bool(second["own_losses_finite"])) == (True, False), "one rank alone met it"
    for rank in (first, second):
        assert rank["counts"].tolist() == [2, 2, 2, 0]
        assert rank["unchanged"]
        assert rank["lowest"].tolist() == [0, 0, 1]
    for name in (name for name in first if name.startswith("final.")):
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_ranks_leave_the_model_out_of_the_same_updates(folder: Path) -> None:
    first, second = (found_by(folder, "now and then", rank) for rank in range(2))
    for rank in (first, second):
        assert (rank["counts"] > 0).tolist() == [False, True] * 2
    for name in (name for name in first if name.startswith("final.")):
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("every", [2, 4])
def test_ranks_that_average_weights_are_equal_after_each_learner_step(folder: Path, every: int) -> None:
    first, second = (found_by(folder, f"apart {every}", rank) for rank in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert first["counts.0"].tolist() == [0, 0, 1]
    assert first["counts.1"].tolist() == [2, 2, 1], "the second rank skips the minibatches with the bad reward, the first none"


def test_one_average_at_the_end_of_a_learner_step_is_that_of_ranks_which_know_nothing_of_each_other(folder: Path) -> None:
    found, alone = found_by(folder, "apart 4", 0), [train_alone(rank) for rank in range(2)]
    names = [name for name in alone[0] if not name.startswith("prior.")]  # no loss of the baseline reads the prior
    for name in names:
        mean = (alone[0][name] + alone[1][name]) / 2
        np.testing.assert_allclose(found[f"final.0.{name}"], mean, atol=1e-7, rtol=1e-6, err_msg=name)
    earlier = found_by(folder, "apart 2", 0)
    assert any(not np.array_equal(earlier[f"final.0.{name}"], found[f"final.0.{name}"]) for name in names)
    assert any(not np.array_equal(alone[0][name], alone[1][name]) for name in names)


def test_ranks_of_one_host_listen_on_the_loopback_alone(folder: Path) -> None:
    for rank in range(2):
        assert set(found_by(folder, "nan", rank)["listens"].tolist()) == {"127.0.0.1"}


def test_random_numbers_of_every_rank_are_gathered_in_their_order(folder: Path) -> None:
    first, second = (found_by(folder, "nan", rank)["generators"] for rank in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], first[1]), "each rank draws its own"


def test_what_each_rank_uses_reaches_all_ranks_in_their_order(folder: Path) -> None:
    """The two processes and their exchange are real; their GPUs are stand-ins, and the second host cannot ask NVML."""
    first, second = (found_by(folder, "resources", rank) for rank in range(2))
    assert {name: first[name] for name in first if name != "start"} == {
        name: second[name] for name in second if name != "start"
    }
    for rank, own in enumerate((first, second)):
        assert first[f"resources.{rank}.start_time_seconds"] == own["start"], "the rank's own process"
        assert first[f"resources.{rank}.memory_used_bytes"] == NUMBERS["memory_used_bytes"] + rank
    assert first["resources.0.power_watts"] == NUMBERS["power_watts"]
    assert "resources.1.power_watts" not in first


def test_a_rank_alone_needs_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined(TrainerSettings(device="cpu")) as ranks:
        assert (ranks.rank, ranks.world_size, ranks.first) == (0, 1, True)
        assert ranks.agree(1.0, 0.0) == ranks.lowest(1.0, 0.0) == [1.0, 0.0]
        module = torch.nn.Linear(1, 1)
        assert ranks.wrap(module) is module


def test_only_rank_0_is_first() -> None:
    assert not Ranks(1, 2, torch.device("cpu"), OneRank()).first
