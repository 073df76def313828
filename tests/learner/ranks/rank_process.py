"""One rank of a two-rank run over gloo: `python -m tests.learner.ranks.rank_process FOLDER ARM/CORE/HEAD ...`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from learner.ranks.meeting import joined
from learner.ranks.reduce import OneRank, Ranks
from learner.reporting import rank_resources
from learner.reporting.gpu import read_gpu
from learner.reporting.measurements import Measurements
from oatmill.children.leaving import leave_at_once
from protocol.data.batch import Batch
from protocol.data.trajectory import Array
from tests.learner.reporting.fake_gpu import fake_gpu
from tests.learner.worlds import (
    inputs_of,
    learn,
    make_batch,
    make_spec,
    make_trainer,
    make_updater_of,
    parameters_of,
    rows_of,
    weigh,
)

STEPS = 4
SIZE = 8
CHANGED = {"importance", "final_observations", "final_trajectory", "final_step"}
UNEVEN = ((0, 1, 2, 3), (4, 5, 6, 7))
"""The rows of each rank."""


def file_name(case: str, rank: int) -> str:
    """Where a rank writes what it found."""
    return f"{case.replace('/', '-')}-{rank}.npz"


def global_batch(core: str, head: str, seed: int) -> Batch:
    """A batch in which the second rank's rows have far fewer valid steps, and some of the first rank's count for less."""
    batch = make_batch(make_spec(core=core, value_head=head), size=SIZE, seed=seed, absent=True)
    batch.valid[4:, 2:] = False
    batch.terminated[4:, 1:] = True
    batch.truncated[4:, 1:] = False
    kept = batch.truncated[batch.final_trajectory, batch.final_step]
    return Batch(
        **{name: getattr(batch, name) for name in batch.__dataclass_fields__ if name not in CHANGED},
        importance=np.array([0.25, 1, 0.5, 1, 1, 1, 1, 1], np.float32),
        final_observations=batch.final_observations[kept],
        final_trajectory=batch.final_trajectory[kept],
        final_step=batch.final_step[kept],
    )


def measure(ranks: Ranks, arm: str, core: str, head: str) -> dict[str, Array]:
    """The first gradient of a whole batch, and what several learner steps come to."""
    torch.set_num_threads(1)
    own = np.arange(SIZE) if ranks.world_size == 1 else np.array(UNEVEN[ranks.rank])
    spec = make_spec(core=core, value_head=head)
    # One minibatch an epoch, so that both ways of cutting the batch make the same updates.
    changes = {"minibatches": 1, "epochs": 2, "losses.muesli_model.policy_pred_coef": 0.5, "losses.cmpo.kl_coef": 0.5}
    updater = make_updater_of(make_trainer(arm, changes), spec, ranks=ranks)
    batch = rows_of(global_batch(core, head, 0), own)
    values = updater.objective.prepare(inputs_of(updater, batch))
    weighed = weigh(updater, values)
    torch.autograd.backward(weighed.total)
    result = {f"gradient.{i}": p.grad.numpy().copy() for i, p in enumerate(updater.parameters) if p.grad is not None}
    result["sigma"] = values["sigma"].numpy() if "sigma" in values else np.zeros(())
    updater.context.advantage_scale.load({"moment": 0.0, "weight": 0.0})
    measurements = Measurements(updater.plan.losses, ranks.reducer)
    for seed in range(STEPS):
        measurements.add(learn(updater, rows_of(global_batch(core, head, seed), own)))
        report = measurements.report(updater.objective.coefs)
        for name, loss in report.losses.items():
            numbers = [loss.weighted, loss.gradient_norm, loss.gradient_cosine]
            result[f"report.{seed}.{name}"] = np.array(numbers)
        moments = [report.statistics[name] for name in sorted(report.statistics)]
        result[f"report.{seed}.statistics"] = np.array([*moments, report.gradient_norm])
    return result | {f"final.{name}": array for name, array in parameters_of(updater).items()}


def meet_nan(ranks: Ranks) -> dict[str, Array]:
    """What a learner step leaves in which the second rank alone has a reward that is not a number, and the one after it."""
    torch.set_num_threads(1)
    spec = make_spec(core="gru")
    # Advantages that are normalised would spread the NaN by themselves; here only the second rank's critic and actor see it.
    changes = {"minibatches": 1, "epochs": 2, "losses.ppo_actor.norm_adv": False}
    updater = make_updater_of(make_trainer("baseline", changes), spec, ranks=ranks)
    own = np.array(UNEVEN[ranks.rank])
    learn(updater, rows_of(global_batch("gru", "scalar", 0), own))
    before = parameters_of(updater)
    batch = global_batch("gru", "scalar", 1)
    batch.rewards[4, 0] = np.nan
    record = learn(updater, rows_of(batch, own))
    after = parameters_of(updater)
    clean = learn(updater, rows_of(global_batch("gru", "scalar", 2), own))
    return {
        "counts": np.array([record.skipped, record.nonfinite["ppo_critic"], record.nonfinite["ppo_actor"], clean.skipped]),
        "own_losses_finite": np.array(bool(torch.stack(record.sums).isfinite().all())),
        "unchanged": np.array(all(np.array_equal(before[name], after[name]) for name in before)),
        "generators": torch.stack(ranks.gather(updater.context.generator.get_state())).numpy(),
        "lowest": np.array(ranks.lowest(float(ranks.rank), 1.0 - ranks.rank, 1.0)),
    } | {f"final.{name}": array for name, array in parameters_of(updater).items()}


def train_the_model_now_and_then(ranks: Ranks) -> dict[str, Array]:
    """What learner steps come to of which every second update leaves out the dynamics model."""
    torch.set_num_threads(1)
    changes = {"minibatches": 2, "epochs": 2, "losses.dynamics.update_every": 2}
    updater = make_updater_of(make_trainer("full", changes), make_spec(), ranks=ranks)
    own = np.array(UNEVEN[ranks.rank])
    for seed in range(STEPS):
        record = learn(updater, rows_of(global_batch("none", "scalar", seed), own))
    counts = torch.stack(record.sums)[:, 1, record.keys.index(("dynamics", "reward"))]
    return {"counts": counts.numpy()} | {f"final.{name}": array for name, array in parameters_of(updater).items()}


APART = {"minibatches": 2, "epochs": 2, "losses.ppo_actor.norm_adv": False}
"""Settings with which no number of one rank depends on another's rows, and a learner step has four updates."""


def train_apart(ranks: Ranks, every: int) -> dict[str, Array]:
    """What learner steps of ranks that average their weights come to; in the second one, one rank has a bad reward."""
    torch.set_num_threads(1)
    updater = make_updater_of(make_trainer("baseline", APART | {"average_every": every}), make_spec(), ranks=ranks)
    found: dict[str, Array] = {}
    for seed in range(2):
        batch = rows_of(global_batch("none", "scalar", seed), np.array(UNEVEN[ranks.rank]))
        if seed and not ranks.first:
            batch.rewards[0, 0] = np.nan
        record = learn(updater, batch)
        counts = [record.skipped, record.nonfinite["ppo_critic"], float(updater.weights_finite())]
        found[f"counts.{seed}"] = np.array(counts)
        found |= {f"final.{seed}.{name}": array for name, array in parameters_of(updater).items()}
    return found


def train_alone(rank: int) -> dict[str, Array]:
    """What the first of these learner steps comes to on a rank's rows, without any other rank."""
    ranks = Ranks(rank, 1, torch.device("cpu"), OneRank())
    updater = make_updater_of(make_trainer("baseline", APART), make_spec(), ranks=ranks)
    learn(updater, rows_of(global_batch("none", "scalar", 0), np.array(UNEVEN[rank])))
    return parameters_of(updater)


def listeners() -> Array:
    """The addresses on which this process listens."""
    found = psutil.Process().net_connections(kind="inet")
    return np.array([connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN])


def resources(ranks: Ranks) -> dict[str, Array]:
    """What each rank knows of the ranks' processes and GPUs. Ranks are on the CPU; a stand-in gives rank N the GPU N."""
    with pytest.MonkeyPatch.context() as patch:
        fake_gpu(patch, nvml=ranks.first)  # the second rank's host does not have nvidia-ml-py
        patch.setattr("learner.reporting.gpu.read_gpu", lambda _: read_gpu(torch.device("cuda", ranks.rank)))
        used = rank_resources.RankResources(ranks)
        used.gather()
    return {
        f"resources.{rank}.{name}": np.array(value)
        for rank, found in enumerate(used.newest())
        for name, value in {**found.process, **found.gpu}.items()
    } | {"start": np.array(psutil.Process().create_time())}


def main() -> None:
    """Join, measure, write."""
    folder, *cases = sys.argv[1:]
    with joined(make_trainer("baseline", {"device": "cpu"})) as ranks:
        for case in cases:
            found = measure(ranks, *case.split("/"))
            found["agreed"] = np.array(ranks.agree(float(ranks.rank == 1), 1.0))
            np.savez(Path(folder) / file_name(case, ranks.rank), allow_pickle=False, **found)
        now_and_then = train_the_model_now_and_then(ranks)
        np.savez(Path(folder) / file_name("now and then", ranks.rank), allow_pickle=False, **now_and_then)
        for every in (2, 4):
            np.savez(Path(folder) / file_name(f"apart {every}", ranks.rank), allow_pickle=False, **train_apart(ranks, every))
        np.savez(Path(folder) / file_name("nan", ranks.rank), allow_pickle=False, **meet_nan(ranks), listens=listeners())
        np.savez(Path(folder) / file_name("resources", ranks.rank), allow_pickle=False, **resources(ranks))


if __name__ == "__main__":
    main()
    leave_at_once(0)
