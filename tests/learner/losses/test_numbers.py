"""The losses where actions have numbers: against NumPy in float64, gradients by hand and by grids, and what must not flow."""

from __future__ import annotations

from math import log, pi
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.loss import Context, Question, Term
from learner.losses.cmpo_sampled import DrawnCmpo
from learner.losses.muesli_model import DrawnMuesliModel, GaussianMuesliModel
from learner.losses.muesli_pg import DrawnMuesliPg
from learner.losses.ppo_actor import PpoActor
from learner.nodes.prior_q import PriorSamples
from learner.nodes.returns import DrawnRetrace
from learner.plan import make_plan
from oatmill.errors import SettingsError
from protocol.data.trajectory import Array
from tests.learner import oracles
from tests.learner.worlds import (
    PLANS,
    inputs_of,
    learn,
    make_action,
    make_batch,
    make_context,
    make_spec,
    make_trainer,
    make_updater_of,
    parameters_of,
    random_normal,
)

SPACES: dict[str, dict[str, Any]] = {"box": {"sizes": (), "numbers": 2}, "mixed": {"sizes": (3, 2), "numbers": 2}}
HERE = torch.ones(1, 1, dtype=torch.bool)


def box_context(changes: dict[str, Any] | None = None, *, numbers: int = 1, **spec: Any) -> Context:
    return make_context(make_trainer("full", changes), make_spec(sizes=(), numbers=numbers, **spec))


def log_normal(x: Array, mean: Array | float, log_std: Array | float) -> Array:
    """The log-density, in float64."""
    density: Array = -0.5 * ((x - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * log(2 * pi)
    return density


def term(terms: Any, name: str) -> Term:
    found = terms[name]
    assert isinstance(found, Term)
    return found


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("squash", ["clip", "tanh"])
@pytest.mark.parametrize("plan", [*PLANS, "proximal"])
def test_every_plan_learns_from_numbers_and_from_both(plan: str, squash: str, space: str) -> None:
    changes: dict[str, object] = {"losses.ppo_actor.anchor": "proximal"} if plan == "proximal" else {}
    if plan == "muesli_cmpo":
        changes = {"losses.dynamics.enabled": True}  # CMPO needs the model's q of drawn actions
    trainer = make_trainer("baseline" if plan == "proximal" else plan, changes)
    spec = make_spec(**SPACES[space], squash=squash, log_std="state" if plan == "full" else "parameter")
    updater = make_updater_of(trainer, spec)
    before = parameters_of(updater)
    record = learn(updater, make_batch(spec, absent=True))
    after = parameters_of(updater)
    assert record.skipped == 0
    trained = [name for name, parameter in updater.context.model.named_parameters() if parameter.requires_grad]
    assert trained
    for name in trained:
        assert np.isfinite(after[f"model.{name}"]).all()
        assert (before[f"model.{name}"] != after[f"model.{name}"]).any(), name


def test_single_steps_are_shuffled_with_their_numbers() -> None:
    spec = make_spec(sizes=(2,), numbers=2)
    updater = make_updater_of(make_trainer("full", {"shuffle": "steps"}), spec)
    assert learn(updater, make_batch(spec)).skipped == 0


def test_the_policy_gradient_of_a_number_by_hand() -> None:
    # pi = N(0, 1) and pi_b = N(0, 1): r = 1. The action is 0.5 and A = 2: d/dmean of -A r is -A (u - mean) / std^2 = -1,
    # d/dlog std is -A ((u - mean)^2 / std^2 - 1) = 1.5. The entropy's gradient by the log std is 1.
    context = make_context(
        make_trainer("baseline", {"losses.ppo_actor.norm_adv": False, "losses.ppo_actor.ent_coef": 0.0}),
        make_spec(sizes=(), numbers=1),
    )
    loss, row = PpoActor(context), torch.zeros(1, 1, 2)
    action = torch.tensor([[[0.5]]])
    written = loss.prepare(
        advantage_BT=torch.tensor([[2.0]]),
        mask_BT=HERE,
        behaviour_log_probs_BTA=row,
        old_log_probs_BTA=row,
        actions_BT=action,
    )
    logits = row.clone().requires_grad_()
    terms = loss.compute(logits_BTA=logits, actions_BT=action, mask_BT=HERE, **written)
    (gradient,) = torch.autograd.grad(term(terms, "policy").value.sum(), logits, retain_graph=True)
    torch.testing.assert_close(gradient[0, 0], torch.tensor([-1.0, 1.5]))
    (of_entropy,) = torch.autograd.grad(term(terms, "entropy").value.sum(), logits)
    torch.testing.assert_close(of_entropy[0, 0], torch.tensor([0.0, 1.0]))


def test_the_ratio_is_joint_over_choices_and_numbers() -> None:
    spec = make_spec(**SPACES["mixed"])
    updater, batch = make_updater_of(make_trainer("baseline"), spec), make_batch(spec)
    values = updater.objective.prepare(inputs_of(updater, batch))
    old, behaviour = (values[f"{name}_log_probs_BTA"].double().numpy() for name in ("old", "behaviour"))
    actions = batch.actions.astype(np.float64)

    def joint(rows: Array) -> Array:
        of_choices: Array = np.zeros(actions.shape[:2])
        for factor, start in enumerate((0, 3)):
            column = start + actions[..., factor].astype(int)
            of_choices = of_choices + np.take_along_axis(rows, column[..., None], -1)[..., 0]
        total: Array = of_choices + log_normal(actions[..., 2:], rows[..., 5:7], rows[..., 7:9]).sum(-1)
        return total

    np.testing.assert_allclose(values["importance_ratio_BT"].numpy(), np.exp(joint(old) - joint(behaviour)), rtol=1e-4)


def test_drawn_actions_are_the_priors_and_their_q_is_its_models() -> None:
    context = make_context(make_trainer("full"), make_spec(sizes=(2,), numbers=1))
    prior = context.prior
    latent, rows = random_normal(0, 1, 3, 8).float(), random_normal(1, 1, 3, 4).float()
    taken = torch.tensor([[[0.0, 0.3], [1.0, -5.0], [1.0, 0.7]]])
    written = PriorSamples(context).prepare(
        prior_latent_BTH=latent, prior_log_probs_BTA=prior.policies.normalise(rows), actions_BT=taken
    )
    actions, q = written["prior_actions_BTN"], written["prior_sampled_q_BTN"]
    assert actions.shape == (1, 3, 16, 2)
    pairs = [(t, actions[0, t, n], q[0, t, n]) for t, n in ((0, 0), (2, 15))]
    pairs += [(t, taken[0, t], written["prior_taken_q_BT"][0, t]) for t in range(3)]
    for t, action, found in pairs:
        choice, number = int(action[0]), action[1].clamp(-1, 1)
        step = prior.transition
        pushed = step.state(latent[0, t]) + step.action.weight[choice] + step.numbers.weight[:, 0] * number
        advanced = step.norm(latent[0, t] + step.output(pushed.relu()))
        reward, value = prior.model_reward(advanced), prior.model_value(advanced)
        torch.testing.assert_close(found, (reward + 0.99 * value).squeeze())


def cmpo_inputs(count: int, *, numbers: int = 1, seed: int = 0) -> dict[str, Tensor]:
    rows = 0.5 * random_normal(seed, 2, 3, 2 * numbers).float()
    actions = (
        rows[..., None, :numbers] + rows[..., None, numbers:].exp() * random_normal(seed + 1, 2, 3, count, numbers).float()
    )
    return {
        "prior_log_probs_BTA": rows,
        "prior_actions_BTN": actions,
        "prior_sampled_q_BTN": random_normal(seed + 2, 2, 3, count).float(),
        "prior_value_BT1": random_normal(seed + 3, 2, 4).float(),
        "sigma": torch.tensor(0.7),
    }


@pytest.mark.parametrize("baseline", ["prior_value", "prior_expected_q"])
def test_cmpo_over_drawn_numbers_is_equation_12(baseline: str) -> None:
    loss = DrawnCmpo(box_context({"losses.cmpo.baseline": baseline}, numbers=2))
    inputs = cmpo_inputs(6, numbers=2)
    written = loss.prepare(**inputs)
    rows, actions, q, value = (inputs[name].double().numpy() for name in list(inputs)[:4])
    base = value[:, :-1, None] if baseline == "prior_value" else q.mean(-1, keepdims=True)
    weights = oracles.leave_one_out((q - base) / 0.7, 1.0)
    log_prior = log_normal(actions, rows[:, :, None, :2], rows[:, :, None, 2:]).sum(-1)
    np.testing.assert_allclose(written["cmpo_weights_BTN"].numpy(), weights, rtol=1e-5)
    np.testing.assert_allclose(written["cmpo_log_prior_BTN"].numpy(), log_prior, rtol=1e-4, atol=1e-5)
    shares = weights / weights.sum(-1, keepdims=True)
    entropy = -(shares * (np.log(weights) + log_prior)).sum(-1)
    np.testing.assert_allclose(written["cmpo_entropy_BT"].numpy(), entropy, rtol=1e-4)
    policy = random_normal(9, 2, 3, 4)
    log_pi = log_normal(actions, policy.numpy()[:, :, None, :2], policy.numpy()[:, :, None, 2:]).sum(-1)
    mask = torch.ones(2, 3, dtype=torch.bool)
    terms = loss.compute(
        logits_BTA=policy.float().requires_grad_(),
        prior_actions_BTN=inputs["prior_actions_BTN"],
        cmpo_weights_BTN=written["cmpo_weights_BTN"],
        cmpo_log_prior_BTN=written["cmpo_log_prior_BTN"],
        cmpo_entropy_BT=written["cmpo_entropy_BT"],
        mask_BT=mask,
    )
    expected = (weights * (np.log(weights) + log_prior - log_pi)).mean(-1)
    np.testing.assert_allclose(term(terms, "kl").value.detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    assert term(terms, "kl").coef == 0.01
    assert term(terms, "kl").value.requires_grad
    assert not terms["cross_entropy"].value.requires_grad
    np.testing.assert_allclose(terms["cross_entropy"].value.numpy(), -(shares * log_pi).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(terms["target_entropy"].value.numpy(), entropy, rtol=1e-4)


GRID = np.linspace(-9, 9, 20_001)


def q_of(x: Array) -> Array:
    """Any curve whose advantage is cut in places."""
    curve: Array = np.sin(2 * x) + 0.5 * x
    return curve


def on_the_grid(density: Array, values: Array) -> float:
    return float(np.trapezoid(density * values, GRID))


def grid_gradient(weight: Array, mean: float, log_std: float) -> Array:
    """-integral of weight times the gradient of log N(mean, std) by mean and log std."""
    std = np.exp(log_std)
    by_mean, by_log_std = (GRID - mean) / std**2, ((GRID - mean) / std) ** 2 - 1
    return np.array([-on_the_grid(weight, by_mean), -on_the_grid(weight, by_log_std)])


def many_draws(count: int) -> tuple[Tensor, Tensor]:
    """The prior's row N(0.2, 0.8^2), and draws of it."""
    row = torch.tensor([0.2, log(0.8)]).view(1, 1, 2)
    noise = torch.randn(1, 1, count, 1, generator=torch.Generator().manual_seed(3))
    return row, 0.2 + 0.8 * noise


def test_the_gradient_of_many_draws_is_that_of_the_tilted_policy_on_a_grid() -> None:
    # KL(pi_cmpo || pi), pi_cmpo = prior exp(clip(q - v)) / z: its gradient is -E_cmpo[grad log pi].
    count, baseline = 200_000, 0.1
    row, actions = many_draws(count)
    q = torch.from_numpy(q_of(actions[..., 0].numpy()))
    loss = DrawnCmpo(box_context())
    inputs = {"prior_log_probs_BTA": row, "prior_actions_BTN": actions, "prior_sampled_q_BTN": q}
    written = loss.prepare(**inputs, prior_value_BT1=torch.full((1, 2), baseline), sigma=torch.tensor(1.0))
    policy = torch.tensor([[[-0.3, -0.4]]], requires_grad=True)
    terms = loss.compute(
        logits_BTA=policy,
        prior_actions_BTN=actions,
        cmpo_weights_BTN=written["cmpo_weights_BTN"],
        cmpo_log_prior_BTN=written["cmpo_log_prior_BTN"],
        cmpo_entropy_BT=written["cmpo_entropy_BT"],
        mask_BT=HERE,
    )
    (gradient,) = torch.autograd.grad(term(terms, "kl").value.sum(), policy)
    tilted = np.exp(log_normal(GRID, 0.2, log(0.8)) + np.clip(q_of(GRID) - baseline, -1, 1))
    tilted /= np.trapezoid(tilted, GRID)
    np.testing.assert_allclose(gradient[0, 0].numpy(), grid_gradient(tilted, -0.3, -0.4), atol=0.03)
    kl = on_the_grid(tilted, np.log(tilted) - log_normal(GRID, -0.3, -0.4))
    assert term(terms, "kl").value.item() == pytest.approx(kl, abs=0.03)


def pg_inputs(row: Tensor, actions: Tensor, q: Tensor, taken: float) -> dict[str, Tensor]:
    return {
        "prior_log_probs_BTA": row,
        "prior_actions_BTN": actions,
        "prior_sampled_q_BTN": q,
        "prior_taken_q_BT": torch.tensor([[-0.4]]),
        "prior_value_BT1": torch.full((1, 2), 0.1),
        "action_return_BT": torch.tensor([[1.5]]),
        "sigma": torch.tensor(2.0),
        "actions_BT": torch.tensor([[[taken]]]),
        "behaviour_log_probs_BTA": torch.tensor([[[0.0, 0.0]]]),
        "old_log_probs_BTA": torch.tensor([[[0.1, 0.0]]]),
        "mask_BT": HERE,
    }


def pg_gradient(loss: DrawnMuesliPg, inputs: dict[str, Tensor], policy: Tensor) -> Array:
    written = loss.prepare(**inputs)
    given = {"logits_BTA": policy, **{name: inputs[name] for name in ("actions_BT", "prior_actions_BTN", "mask_BT")}}
    terms = loss.compute(**given, **written)
    (gradient,) = torch.autograd.grad(term(terms, "policy").value.sum(), policy)
    return gradient[0, 0].numpy()


def test_the_gradient_of_muesli_pg_is_the_expected_q_on_a_grid_and_the_correction_by_hand() -> None:
    row, actions = many_draws(200_000)
    q = torch.from_numpy(q_of(actions[..., 0].numpy()))
    context = box_context({"losses.muesli_pg.ratio_clip": 50.0})
    loss = DrawnMuesliPg(context)
    policy = torch.tensor([[[0.0, -0.3]]], requires_grad=True)
    found = pg_gradient(loss, pg_inputs(row, actions, q, taken=0.6), policy)
    density = np.exp(log_normal(GRID, 0.0, -0.3))
    expected = grid_gradient(density * (q_of(GRID) - 0.1) / 2, 0.0, -0.3)
    ratio = np.exp(log_normal(np.array(0.6), 0.0, -0.3) - log_normal(np.array(0.6), 0.0, 0.0))
    std = np.exp(-0.3)
    scores = np.array([0.6 / std**2, (0.6 / std) ** 2 - 1])
    expected -= ratio * (1.5 + 0.4) / 2 * scores
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_ratios_of_muesli_pg_are_cut() -> None:
    # pi is 100 times as sharp as the prior and as the behaviour policy: both ratios at its mean are e^4.6.
    loss = DrawnMuesliPg(box_context({"losses.muesli_pg.ratio_clip": 1.0}))
    row = torch.zeros(1, 1, 2)
    inputs = pg_inputs(row, torch.full((1, 1, 4, 1), 0.01), torch.ones(1, 1, 4), taken=0.01)
    written = loss.prepare(**inputs)
    policy = torch.tensor([[[0.0, -log(100)]]])
    given = {"logits_BTA": policy, **{name: inputs[name] for name in ("actions_BT", "prior_actions_BTN", "mask_BT")}}
    terms = loss.compute(**given, **written)
    log_pi = float(log_normal(np.array(0.01), 0.0, -log(100)))
    expected = -(float(written["pg_correction_BT"]) + (1 - 0.1) / 2) * log_pi
    assert term(terms, "policy").value.item() == pytest.approx(expected, rel=1e-5)
    assert terms["clip_ratio"].value.item() == 1


def test_what_multiplies_the_policy_in_muesli_pg_is_0_where_a_step_does_not_count() -> None:
    unknown = float("nan")
    inputs = pg_inputs(
        torch.zeros(1, 3, 2),
        torch.zeros(1, 3, 4, 1),
        torch.tensor([[[1.0, 2.0, 3.0, 4.0], [unknown] * 4, [2.0, 1.0, 0.5, 0.0]]]),
        taken=0.6,
    )
    inputs |= {
        "prior_taken_q_BT": torch.tensor([[-0.4, unknown, 1.0]]),
        "prior_value_BT1": torch.tensor([[0.1, unknown, 0.7, 0.2]]),
        "action_return_BT": torch.tensor([[1.5, unknown, 0.5]]),
        "mask_BT": torch.tensor([[True, False, True]]),
    }
    inputs |= {
        name: inputs[name].repeat_interleave(3, 1) for name in ("actions_BT", "behaviour_log_probs_BTA", "old_log_probs_BTA")
    }
    written = DrawnMuesliPg(box_context()).prepare(**inputs)
    # By hand, over a sigma of 2: 1.5 + 0.4 and 0.5 - 1; q - 0.1 and q - 0.7.
    torch.testing.assert_close(written["pg_correction_BT"], torch.tensor([[0.95, 0.0, -0.25]]))
    advantages = [[0.45, 0.95, 1.45, 1.95], [0.0] * 4, [0.65, 0.15, -0.1, -0.35]]
    torch.testing.assert_close(written["pg_advantage_BTN"], torch.tensor([advantages]))


def ends_of(steps: int) -> dict[str, Tensor]:
    flags = torch.zeros(1, steps, dtype=torch.bool)
    terminated = flags.clone()
    terminated[0, 2] = True
    return {"terminated_BT": terminated, "truncated_BT": flags, "mask_BT": ~flags}


def test_the_models_policy_is_fitted_to_the_drawn_actions_of_the_state_that_was_reached() -> None:
    loss = DrawnMuesliModel(box_context({"losses.muesli_model.policy_horizon": 2}, numbers=2))
    actions, weights = random_normal(0, 1, 5, 4, 2).float(), random_normal(1, 1, 5, 4).float().exp()
    entropy = random_normal(2, 1, 5).float()
    actions[0, 3] = float("nan")  # reached only across the episode's end, so it must not be read
    written = loss.prepare(prior_actions_BTN=actions, cmpo_weights_BTN=weights, cmpo_entropy_BT=entropy, **ends_of(5))
    # The episode ends at t = 2, and t = 5 is behind the last step.
    assert written["muesli_mask_BTK"][0].tolist() == [
        [True, True],
        [True, False],
        [False, False],
        [True, False],
        [False, False],
    ]
    logits = random_normal(3, 1, 5, 2, 4).float()
    cross_entropy = term(loss.compute(model_logits_BTKA=logits, **written), "cross_entropy")
    for t, k in ((0, 0), (0, 1), (3, 0)):
        reached, row = t + k + 1, logits[0, t, k].double().numpy()
        log_pi = log_normal(actions[0, reached].double().numpy(), row[:2], row[2:]).sum(-1)
        share = (weights[0, reached] / weights[0, reached].sum()).double().numpy()
        assert cross_entropy.value[0, t, k].item() == pytest.approx(-(share * log_pi).sum(), rel=1e-4)
        assert written["muesli_entropy_BTK"][0, t, k] == entropy[0, reached]
    assert cross_entropy.value.isfinite().all()


def test_without_cmpo_the_models_policy_is_fitted_to_the_prior_in_closed_form() -> None:
    context = make_context(make_trainer("muesli", {"losses.muesli_model.policy_horizon": 2}), make_spec(sizes=(2,), numbers=1))
    loss, policies = GaussianMuesliModel(context), context.policies
    prior = policies.normalise(random_normal(0, 1, 5, 4))
    written = loss.prepare(prior_log_probs_BTA=prior, **ends_of(5))
    logits = random_normal(1, 1, 5, 2, 4).float()
    terms = loss.compute(model_logits_BTKA=logits, **written)
    kl = policies.kl(prior[0, 2], policies.normalise(logits[0, 0, 1]))
    torch.testing.assert_close(terms["kl"].value[0, 0, 1], kl)
    torch.testing.assert_close(term(terms, "cross_entropy").value[0, 0, 1], kl + policies.drawn_entropy(prior[0, 2]))


def test_retrace_takes_the_models_q_of_the_taken_numbers_and_the_mean_of_drawn_ones() -> None:
    context = make_context(make_trainer("paper"), make_spec(sizes=(), numbers=2))
    flags = torch.zeros(2, 5, dtype=torch.bool)
    terminated, truncated = flags.clone(), flags.clone()
    terminated[0, 1], truncated[1, 3] = True, True
    actions, q_taken = random_normal(1, 2, 5, 2).float(), random_normal(0, 2, 5)
    behaviour, prior = 0.3 * random_normal(2, 2, 5, 4).float(), 0.3 * random_normal(3, 2, 5, 4).float()
    drawn_q, value, final = random_normal(4, 2, 5, 16), random_normal(5, 2, 6), random_normal(6, 2, 5)
    rewards = random_normal(7, 2, 5)
    written = DrawnRetrace(context).prepare(
        rewards_BT=rewards.float(),
        terminated_BT=terminated,
        truncated_BT=truncated,
        actions_BT=actions,
        behaviour_log_probs_BTA=behaviour,
        prior_log_probs_BTA=prior,
        prior_sampled_q_BTN=drawn_q.float(),
        prior_taken_q_BT=q_taken.float(),
        prior_value_BT1=value.float(),
        prior_final_value_BT=final.float(),
    )
    rows, old, moved = (x.double().numpy() for x in (prior, behaviour, actions))
    log_ratio = (log_normal(moved, rows[..., :2], rows[..., 2:]) - log_normal(moved, old[..., :2], old[..., 2:])).sum(-1)
    expected = retrace_by_loops(
        rewards.numpy(),
        terminated.numpy(),
        truncated.numpy(),
        q_taken.numpy(),
        drawn_q.mean(-1).numpy(),
        final.numpy(),
        value.numpy()[:, -1],
        np.exp(log_ratio),
    )
    np.testing.assert_allclose(written["value_target_BT"].numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(written["advantage_BT"].numpy(), expected - value.numpy()[:, :-1], rtol=1e-4, atol=1e-4)


def retrace_by_loops(  # noqa: PLR0917
    rewards: Array, terminated: Array, truncated: Array, q: Array, mean_q: Array, final: Array, last: Array, ratio: Array
) -> Array:
    """G_t = r_t + gamma (1 - terminated_t) [next + c_{t+1} n_t (G_{t+1} - q_{t+1})], c = lambda min(1, ratio)."""
    g: Array = np.zeros_like(rewards)
    rows, steps = rewards.shape
    for row in range(rows):
        for t in reversed(range(steps)):
            following = last[row] if t == steps - 1 else mean_q[row, t + 1]
            if truncated[row, t]:
                following = final[row, t]
            elif t < steps - 1 and not terminated[row, t]:
                following += 0.95 * min(1, ratio[row, t + 1]) * (g[row, t + 1] - q[row, t + 1])
            g[row, t] = rewards[row, t] + 0.99 * (0 if terminated[row, t] else following)
    return g


def test_nothing_flows_into_what_was_prepared() -> None:
    # As the objective runs it: the KL's gradient reaches the policy's row alone.
    loss = DrawnCmpo(box_context(numbers=2))
    inputs = {name: value.clone().requires_grad_() for name, value in cmpo_inputs(6, numbers=2).items()}
    with torch.no_grad():
        written = loss.prepare(**inputs)
    logits = torch.zeros(2, 3, 4, requires_grad=True)
    terms = loss.compute(
        logits_BTA=logits,
        prior_actions_BTN=inputs["prior_actions_BTN"].detach(),
        cmpo_weights_BTN=written["cmpo_weights_BTN"],
        cmpo_log_prior_BTN=written["cmpo_log_prior_BTN"],
        cmpo_entropy_BT=written["cmpo_entropy_BT"],
        mask_BT=torch.ones(2, 3, dtype=torch.bool),
    )
    torch.autograd.backward(term(terms, "kl").value.sum())
    assert all(value.grad is None for value in inputs.values())
    assert logits.grad is not None
    assert (logits.grad != 0).all()


def test_a_ratio_that_no_float_holds_is_cut_and_stays_finite() -> None:
    policies = box_context().policies
    assert policies.ratio(torch.tensor([500.0, 1.0])).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"losses.cmpo.enabled": True}, "with a Box action needs the model's q of sampled actions"),
        (
            {"losses.cmpo.enabled": True, "losses.dynamics.enabled": True, "losses.cmpo.advantage": "sampled"},
            "with a Box action",
        ),
        (
            {"losses.cmpo.enabled": True, "losses.dynamics.enabled": True, "losses.cmpo.estimator": "exact"},
            "a Box has too many",
        ),
        ({"losses.cmpo.enabled": True, "losses.cmpo.advantage": "model"}, "with a Box action"),
    ],
)
def test_what_needs_every_action_is_refused_with_the_way_out(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make_plan(make_trainer("baseline", changes), make_spec().settings, make_action((), numbers=1))


@pytest.mark.parametrize("plan", ["full", "paper"])
def test_the_plan_draws_actions_and_says_so(plan: str) -> None:
    made = make_plan(make_trainer(plan), make_spec().settings, make_action((), numbers=1))
    assert DrawnCmpo in made.nodes
    assert PriorSamples in made.nodes
    assert "prior_q" not in made.order
    assert made.auto["trainer.losses.cmpo.estimator"] == "sampled"
    assert any("16 actions sampled from the prior" in note for note in made.notes)


def test_a_question_of_numbers_alone_has_no_choices() -> None:
    question = Question(make_trainer(), make_spec().settings, make_action((), numbers=3))
    assert question.action.num_logits == 0
    assert question.action.num_parameters == 6
