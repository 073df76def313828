"""On a CUDA device: losses and gradients as on the CPU, bfloat16, torch.compile, and whole runs (`make test-gpu`).

Without a device these tests are skipped. `OATMILL_GPU_REHEARSAL=1` runs them on the CPU, to check the tests themselves.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.spec import AgentSpec
from learner.cost import one_trajectory
from learner.ranks.reduce import OneRank, Ranks
from learner.reporting.gpu import read_gpu
from learner.setup import LearnerConfig, make_updater
from learner.step_time import copies
from learner.update.forward import model_outputs
from learner.update.inputs import to_inputs
from learner.update.updater import Updater
from oatmill.settings.base import MetricsSettings
from protocol.data.batch import Batch
from protocol.data.spaces import ObservationSpace, Spaces
from tests.learner.worlds import PLANS, make_batch, make_spec, make_trainer, make_updater_of

pytestmark = pytest.mark.gpu
REHEARSAL = os.environ.get("OATMILL_GPU_REHEARSAL") == "1"
CPU = torch.device("cpu")
CASES: dict[str, tuple[str, dict[str, Any]]] = {arm: (arm, {}) for arm in PLANS} | {
    "numbers": ("baseline", {"sizes": (), "numbers": 3}),
    "factors": ("full", {"sizes": (2, 3), "factored": True, "value_head": "categorical"}),
    "lstm": ("full", {"core": "lstm", "burn_in": 2}),
}


@pytest.fixture
def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if not REHEARSAL:
        pytest.skip("no CUDA device; OATMILL_GPU_REHEARSAL=1 runs this on the CPU")
    return CPU


def updater_on(place: torch.device, arm: str, spec: AgentSpec, **trainer: Any) -> Updater:
    return make_updater_of(make_trainer(arm, trainer), spec, ranks=Ranks(0, 1, place, OneRank()))


def inputs_on(place: torch.device, updater: Updater, batch: Batch) -> dict[str, Tensor]:
    context = updater.context
    return cast("dict[str, Tensor]", to_inputs(batch, context.model.spec, context.trainer, place))


def sums_and_gradient(place: torch.device, arm: str, spec: AgentSpec, batch: Batch) -> tuple[Tensor, Tensor]:
    """The sums and counts of all terms and statistics of a batch, and the gradient of the objective."""
    updater = updater_on(place, arm, spec)
    values = updater.objective.prepare(inputs_on(place, updater, batch))
    minibatch = updater.objective.minibatch(values, torch.arange(len(values["mask_BT"]), device=place))
    weighed = updater.objective.weigh(minibatch, model_outputs(updater.wrapped, minibatch, updater.plan.needs))
    weighed.total.backward()  # type: ignore[no-untyped-call]
    return weighed.sums.detach().cpu(), updater.optimizer.flat.gradient().cpu()


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_the_cpu(device: torch.device, case: str) -> None:
    arm, changes = CASES[case]
    spec = make_spec(**changes)
    batch = make_batch(spec, absent=True)
    sums, gradient = sums_and_gradient(device, arm, spec, batch)
    expected_sums, expected_gradient = sums_and_gradient(CPU, arm, spec, batch)
    torch.testing.assert_close(sums, expected_sums, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4 * float(expected_gradient.abs().max()))


@pytest.mark.parametrize("arm", ["baseline", "full", "paper"])
def test_a_learner_step_changes_the_network_as_on_the_cpu(device: torch.device, arm: str) -> None:
    spec, changed = make_spec(), []
    batch = make_batch(spec)
    for place in (device, CPU):
        updater = updater_on(place, arm, spec, epochs=2, minibatches=1)  # one minibatch: its order does not matter
        before = updater.optimizer.flat.array.clone()
        record = updater.learn(inputs_on(place, updater, batch), learning_rate=1e-2, report=True)
        assert record.skipped == 0
        changed.append((updater.optimizer.flat.array - before).cpu())
    assert float(changed[1].abs().max()) > 1e-3
    assert torch.cosine_similarity(changed[0], changed[1], 0) > 0.999


@pytest.mark.parametrize("encoder", ["nature", "small_cnn", "cnn"])
def test_images_in_bfloat16_have_the_gradient_of_float32(device: torch.device, encoder: str) -> None:
    spaces = Spaces(ObservationSpace("image", (4, 36, 36), "uint8"), make_spec().spaces.action)
    agent = make_spec(hidden_sizes=(32,), activation="relu").settings.model_copy(update={"encoder": encoder})
    spec = AgentSpec(spaces, agent)
    one = cast("dict[str, Tensor]", one_trajectory(spec, 6))
    inputs = {name: copies(value, rows=8).to(device) for name, value in one.items()}
    gradients = []
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer("full", {"precision": precision, "epochs": 1, "minibatches": 1})
        config = LearnerConfig(trainer, agent, MetricsSettings(), {}, "", Path())
        updater = make_updater(config, spec, Ranks(0, 1, device, OneRank()))  # with the first weights of a run
        updater.learn(inputs, learning_rate=0.0, report=False)
        gradients.append(updater.optimizer.flat.gradient().clone())
    assert gradients[1].dtype == torch.float32
    assert torch.cosine_similarity(gradients[0], gradients[1], 0) > 0.98


def test_a_compiled_network_learns_the_same(device: torch.device) -> None:
    if device == CPU:
        pytest.skip("tests/learner/update/test_compile.py does this on a CPU")
    spec, arrays = make_spec(), []
    batch = make_batch(spec)
    for compiled in (False, True):
        updater = updater_on(device, "full", spec, compile=compiled, epochs=1, minibatches=1)
        updater.learn(inputs_on(device, updater, batch), learning_rate=1e-2, report=False)
        arrays.append(updater.optimizer.flat.array.clone())
    torch.testing.assert_close(arrays[1], arrays[0], rtol=1e-3, atol=1e-4)


def test_the_device_is_measured_as_far_as_nvml_is_there(device: torch.device) -> None:
    before = read_gpu(device)
    if device == CPU:
        assert before == {}
        return
    held = torch.ones(2**28, device=device)  # 1 GiB
    found = read_gpu(device)
    assert found["memory_allocated_bytes"] - before["memory_allocated_bytes"] == held.nbytes
    assert held.nbytes <= found["memory_reserved_bytes"] <= found["memory_used_bytes"] < found["memory_capacity_bytes"]
    of_nvml = [found[name] for name in ("utilization_ratio", "power_watts", "temperature_celsius") if name in found]
    if importlib.util.find_spec("pynvml") is None:
        assert not of_nvml
    else:
        assert of_nvml, "under MIG there may be no utilisation"
        assert 0 <= found.get("utilization_ratio", 0) <= 1
        assert 5 < found.get("power_watts", 50) < 2000
        assert 10 < found.get("temperature_celsius", 50) < 120


@pytest.mark.timeout(300)
@pytest.mark.parametrize("learners", [1, 2])
def test_a_run_trains_on_the_device_and_is_played(device: torch.device, learners: int, tmp_path: Path) -> None:
    if learners > max(torch.cuda.device_count(), 2 * REHEARSAL):
        pytest.skip(f"{learners} ranks need {learners} CUDA devices, because NCCL takes one rank for each")
    settings = (f"trainer.device={device.type}", f"trainer.learners={learners}", "trainer.total_timesteps=40000")
    oatmill = [sys.executable, "-m", "deploy"]
    subprocess.run([*oatmill, "train", "cartpole", *settings, "--run-dir", str(tmp_path / "run")], check=True, timeout=240)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["ledger"]["lost"] == 0
    assert all(math.isfinite(loss["weighted"]) for loss in summary["losses"].values())
    played = subprocess.run(
        [*oatmill, "eval", str(tmp_path / "run"), "--episodes", "3", "--json"], check=True, timeout=100, stdout=subprocess.PIPE
    )
    assert np.isfinite(json.loads(played.stdout)["episode_return"]["mean"])
