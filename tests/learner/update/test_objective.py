"""The objective: weighed, masked and averaged in one place, against numbers by hand and against the whole of it in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.model import ModelNeeds
from learner.loss import Context, Loss, Node, Statistic, Term, Terms
from learner.plan import Plan
from learner.update.objective import Objective, sums_and_counts
from oatmill.errors import UserError
from protocol.data.trajectory import Array
from tests.learner import oracles
from tests.learner.worlds import inputs_of, make_batch, make_context, make_spec, make_trainer, make_updater_of, weigh

NAN = float("nan")
MASK = torch.tensor([[True, True, False]])


class Two(Loss):
    """Terms of known numbers: 2 * mean(1, 2) = 3 and -0.5 * 4 = -2."""

    name = "two"

    def compute(self, *, x_BT: Tensor) -> Terms:
        return {
            "x": Term(x_BT, MASK, 2.0),
            "y": Term(torch.full((1, 1), 4.0), torch.ones(1, 1, dtype=torch.bool), -0.5),
            "seen": Statistic(torch.tensor([[7.0, 9.0, NAN]]), MASK),
        }


class Empty(Loss):
    name = "empty"

    def compute(self, *, x_BT: Tensor) -> Terms:
        return {"none": Term(x_BT, torch.zeros_like(MASK), 5.0)}


def objective_of(*nodes: type[Node], context: Context | None = None) -> Objective:
    return Objective(Plan(nodes, {}, (), ModelNeeds()), context or make_context())


def test_each_loss_is_the_weighed_sum_of_its_terms_masked_means() -> None:
    objective = objective_of(Two, Empty)
    x = torch.tensor([[1.0, 2.0, NAN]], requires_grad=True)
    weighed = objective.weigh({"x_BT": x}, {})  # type: ignore[typeddict-item]
    assert {name: loss.item() for name, loss in weighed.losses.items()} == {"two": 1.0, "empty": 0.0}
    assert weighed.total.item() == 1.0
    assert weighed.keys == (("two", "x"), ("two", "y"), ("two", "seen"), ("empty", "none"))
    assert weighed.sums.tolist() == [[3, 4, 16, 0], [2, 1, 2, 0]]
    assert not weighed.sums.requires_grad, "a report must not keep every minibatch's graph alive"
    assert objective.coefs == {("two", "x"): 2.0, ("two", "y"): -0.5, ("empty", "none"): 5.0}
    # d/dx = coef / count where it counts, and 0, not NaN, where it does not.
    (gradient,) = torch.autograd.grad(weighed.total, x)
    assert gradient.tolist() == [[1.0, 1.0, 0.0]]


def test_a_ranks_share_is_over_the_count_of_all_ranks_times_their_number() -> None:
    # 2 of 3 steps count here and 4 elsewhere: x gives 2 ranks * coef 2 * (1 + 2) / (2 + 4) = 2.
    class Other:
        world_size = 2

        def sum(self, values: Tensor) -> Tensor:
            return values + 4

    context = make_context()
    context = Context(context.trainer, context.model, context.prior, Other(), context.advantage_scale, context.generator)
    weighed = objective_of(Two, context=context).weigh({"x_BT": torch.tensor([[1.0, 2.0, 0.0]])}, {})  # type: ignore[typeddict-item]
    assert weighed.losses["two"].item() == pytest.approx(2 * 2 * 3 / 6 + 2 * -0.5 * 4 / 5)


def test_statistics_add_nothing_to_the_objective() -> None:
    class Seen(Loss):
        name = "seen"

        def compute(self, *, x_BT: Tensor) -> Terms:
            return {"big": Statistic(x_BT, MASK)}

    weighed = objective_of(Seen).weigh({"x_BT": torch.full((1, 3), 1e6)}, {})  # type: ignore[typeddict-item]
    assert weighed.total.item() == 0


def test_masked_numbers_may_be_nan_and_a_plan_without_entries_has_no_columns() -> None:
    assert sums_and_counts([Statistic(torch.tensor([[1.0, 2.0, NAN]]), MASK)]).tolist() == [[3], [2]]
    assert sums_and_counts([]).shape == (2, 0)


def test_what_prepare_writes_is_frozen_and_cut_into_minibatches_by_trajectory() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(), spec)
    inputs = inputs_of(updater, make_batch(spec))
    values = updater.objective.prepare(inputs)
    assert not any(tensor.requires_grad for tensor in values.values())
    rows = torch.tensor([4, 1])
    minibatch = updater.objective.minibatch(values, rows)
    assert torch.equal(minibatch["critic_target_BT"], values["critic_target_BT"][[4, 1]])
    assert "final_observations" not in minibatch
    assert "sigma" not in minibatch, "no loss's compute reads it"
    scalars = updater.objective.minibatch(values | {"mask_BT": torch.tensor(3.0)}, rows)
    assert scalars["mask_BT"].item() == 3.0


def test_a_node_must_write_tensors_with_the_batch_in_front() -> None:
    class Wrong(Two):
        def prepare(self, *, mask_BT: Tensor) -> dict[str, Tensor]:
            return {"thing": mask_BT.new_zeros(7)}

    with pytest.raises(AssertionError, match="thing must have B as its first axis, or no axes"):
        objective_of(Wrong).prepare({"mask_BT": torch.ones(2, 3, dtype=torch.bool)})


@pytest.mark.parametrize("name", ["raw", "share", "gradient_norm", "terms"])
@pytest.mark.parametrize("kind", ["computed", "measured"])
def test_a_reported_name_that_is_already_used_raises_an_error(name: str, kind: str) -> None:
    class Odd(Two):
        def measure(self, *, mask_BT: Tensor) -> dict[str, Statistic]:
            return {name if kind == "measured" else "z": Statistic(mask_BT.float(), mask_BT)}

        def compute(self, *, x_BT: Tensor) -> Terms:
            return {name if kind == "computed" else "x": Term(x_BT, MASK, 2.0)}

    objective = objective_of(Odd)
    objective.measure({"mask_BT": MASK})
    with pytest.raises(UserError, match=f"the loss two reports '{name}', a name that every loss already has"):
        objective.weigh({"x_BT": torch.ones(1, 3)}, {})  # type: ignore[typeddict-item]


def test_a_statistic_of_the_batch_does_not_take_a_minibatchs_place() -> None:
    class Twice(Two):
        def measure(self, *, mask_BT: Tensor) -> dict[str, Statistic]:
            return {"seen": Statistic(mask_BT.float(), mask_BT)}

    objective = objective_of(Twice)
    objective.measure({"mask_BT": MASK})
    with pytest.raises(UserError, match="the loss two reports 'seen' from both compute and measure"):
        objective.weigh({"x_BT": torch.ones(1, 3)}, {})  # type: ignore[typeddict-item]


def test_statistics_of_the_whole_batch_are_measured_by_node() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(), spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec, absent=True)))
    keys, sums = updater.objective.measure(values)
    assert {node for node, _ in keys} == {"forward", "returns", "cmpo"}
    column = keys.index(("returns", "target"))
    kept = values["value_target_BT"][values["mask_BT"]]
    torch.testing.assert_close(sums[:, column], torch.stack([kept.sum(), torch.tensor(float(kept.numel()))]))


def numpy_of(values: dict[str, Tensor]) -> dict[str, Array]:
    return {
        name: value.detach().numpy().astype(np.float64) if value.is_floating_point() else value.numpy()
        for name, value in values.items()
    }


def oracle_losses(trainer: Any, v: dict[str, Array], out: dict[str, Array]) -> dict[str, float]:
    """The five losses of the full arm from the root outputs alone, in float64 loops."""
    losses, mask = trainer.losses, v["mask_BT"]
    flags = (v["terminated_BT"], v["truncated_BT"])
    advantages, targets = oracles.vtrace_targets(
        rewards=v["rewards_BT"],
        terminated=flags[0],
        truncated=flags[1],
        values=v["old_value_BT1"],
        final_values=v["final_value_BT"],
        ratios=v["importance_ratio_BT"],
        gamma=trainer.gamma,
        gae_lambda=losses.ppo_critic.gae_lambda,
        rho_clip=losses.ppo_critic.rho_clip,
        c_clip=losses.ppo_critic.c_clip,
    )
    critic = oracles.masked_mean(0.5 * (out["value_raw_BT"][..., 0] - targets) ** 2, mask)
    prior_value = v["prior_value_BT1"][:, :-1]
    sigma = np.sqrt(oracles.masked_mean((targets - prior_value) ** 2, mask) + losses.cmpo.variance_eps)
    target = oracles.cmpo_target(
        np.exp(v["prior_log_probs_BTA"]), (v["prior_q_BTA"] - prior_value[..., None]) / sigma, losses.cmpo.advantage_clip
    )
    policy = oracles.softmax(out["logits_BTA"])
    taken = v["actions_BT"][..., None].astype(int)
    ratio = np.take_along_axis(policy / np.exp(v["behaviour_log_probs_BTA"]), taken, -1)[..., 0]
    normalised = (advantages - advantages[mask].mean()) / advantages[mask].std()
    surrogate = oracles.masked_mean(oracles.surrogate(ratio, normalised, losses.ppo_actor.clip_coef), mask)
    entropy = oracles.masked_mean(-(policy * np.log(policy)).sum(-1), mask)
    steps, horizon = losses.dynamics.unroll_steps, losses.muesli_model.policy_horizon
    masks = oracles.unroll_truth(*flags, mask, steps)
    squared: dict[str, list[float]] = {"reward": [], "value": []}
    cross_entropy = []
    for b, t, k in np.ndindex(*mask.shape, steps):
        if masks["reward"][b, t, k]:
            squared["reward"].append((out["model_reward_raw_BTK"][b, t, k, 0] - v["rewards_BT"][b, t + k]) ** 2)
        if masks["value"][b, t, k]:
            after = targets[b, t + k + 1] if masks["policy"][b, t, k] else 0.0
            squared["value"].append((out["model_value_raw_BTK"][b, t, k, 0] - after) ** 2)
        if k < horizon and masks["policy"][b, t, k]:
            log_model = np.log(oracles.softmax(out["model_logits_BTKA"][b, t, k]))
            cross_entropy.append(-(target[b, t + k + 1] * log_model).sum())
    return {
        "ppo_critic": losses.ppo_critic.vf_coef * critic,
        "cmpo": losses.cmpo.kl_coef * oracles.masked_mean(oracles.kl(target, policy), mask),
        "ppo_actor": surrogate - losses.ppo_actor.ent_coef * entropy,
        "dynamics": losses.dynamics.returns_pred_coef * 0.5 * float(np.mean(squared["value"]))
        + losses.dynamics.reward_pred_coef * 0.5 * float(np.mean(squared["reward"])),
        "muesli_model": losses.muesli_model.policy_pred_coef * float(np.mean(cross_entropy)),
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_full_objective_is_the_specifications_in_numpy(seed: int) -> None:
    spec = make_spec()
    trainer = make_trainer(
        "full",
        {
            "losses.muesli_model.policy_horizon": 2,
            "losses.muesli_model.policy_pred_coef": 0.7,
            "losses.cmpo.kl_coef": 0.4,
            "losses.dynamics.reward_pred_coef": 0.3,
            "losses.ppo_critic.rho_clip": 0.9,
        },
    )
    updater = make_updater_of(trainer, spec)
    batch = make_batch(spec, seed=seed, absent=True)
    values = updater.objective.prepare(inputs_of(updater, batch))
    weighed = weigh(updater, values)
    ends = values["terminated_BT"] | values["truncated_BT"]
    with torch.no_grad():
        outputs = updater.context.model(
            values["observations_BT1"][:, :-1], values["core_state_BS"], ends, values["actions_BT"], updater.plan.needs
        )
    expected = oracle_losses(trainer, numpy_of(values), numpy_of(outputs))
    assert list(weighed.losses) == list(expected)
    for name, loss in weighed.losses.items():
        np.testing.assert_allclose(loss.item(), expected[name], rtol=2e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(weighed.total.item(), sum(expected.values()), rtol=2e-5)


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_a_term_that_is_not_finite_is_seen_though_the_gradient_is(value: float) -> None:
    class Broken(Two):
        name = "broken"

        def compute(self, *, x_BT: Tensor) -> Terms:
            return {"z": Term(x_BT, MASK, 0.0)}

    weighed = objective_of(Two, Broken).weigh({"x_BT": torch.tensor([[1.0, value, 0.0]])}, {})  # type: ignore[typeddict-item]
    assert weighed.sound(torch.tensor(3.0)) == (False, 3.0)
    assert weighed.broken_losses() == {"two", "broken"}
    sound = objective_of(Two, Empty).weigh({"x_BT": torch.ones(1, 3)}, {})  # type: ignore[typeddict-item]
    assert sound.sound(torch.tensor(3.0)) == (True, 3.0)
    assert not sound.sound(torch.tensor(value))[0]
