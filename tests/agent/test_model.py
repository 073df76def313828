"""The network: acting and training see the same numbers, and the latent model follows the actions that were taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agent.dynamics.transition import ScaleGradient, Transition
from agent.model import (
    AgentModel,
    ModelNeeds,
    acting_arrays,
    acting_layout,
    acting_parameters,
)
from protocol.data.spaces import ActionSpace
from tests.learner.worlds import OBSERVATION, make_spec

CORES = ["none", "lstm", "gru"]


def make_model(seed: int = 0, **settings: Any) -> AgentModel:
    """Random parameters everywhere: heads that start at zero would hide mistakes."""
    model = AgentModel(make_spec(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("head", ["scalar", "categorical"])
def test_the_training_pass_sees_what_acting_saw(core: str, head: str) -> None:
    model = make_model(core=core, value_head=head)
    observations, ends = torch.randn(3, 6, OBSERVATION), torch.rand(3, 6) < 0.3
    start = torch.randn(3, model.spec.core_state_size)
    outputs = model(observations, start, ends, torch.zeros(3, 6, dtype=torch.long), ModelNeeds())
    assert set(outputs) == {"logits_BTA", "value_raw_BT"}
    state = start
    for t in range(6):
        acted = model.act(observations[:, t], state)
        torch.testing.assert_close(acted.logits, outputs["logits_BTA"][:, t], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(acted.value, model.codec.value(outputs["value_raw_BT"][:, t]), atol=1e-4, rtol=1e-4)
        state = torch.where(ends[:, t : t + 1], 0.0, acted.core_state)


def test_a_new_network_is_nearly_uniform_and_predicts_0() -> None:
    torch.manual_seed(0)
    model = AgentModel(make_spec())
    acted = model.act(torch.randn(100, OBSERVATION), model.initial_state(100))
    assert acted.logits.softmax(-1).sub(1 / 3).abs().max() < 0.01
    assert acted.value.abs().max() == 0
    reward, value = model.every_action(torch.randn(5, 8), torch.zeros(5, dtype=torch.long))
    assert reward.abs().max() == value.abs().max() == 0


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_burn_in_changes_no_number_and_lets_no_gradient_back(core: str) -> None:
    # Three steps warm the state up. Row 0's episode ends in them, row 1's at the last of them, row 2's not at all.
    models = [make_model(core=core, burn_in=3), make_model(core=core)]
    observations = torch.randn(3, 6, OBSERVATION)
    ends = torch.zeros(3, 6, dtype=torch.bool)
    ends[0, 1] = ends[1, 2] = True
    start = torch.randn(3, models[0].spec.core_state_size)
    sources = [observations.clone().requires_grad_() for _ in models]
    latents = [model.latents(source, start, ends) for model, source in zip(models, sources, strict=True)]
    for ours, expected in zip(*latents, strict=True):
        torch.testing.assert_close(ours, expected)
    reached = []
    for (latent, _), source in zip(latents, sources, strict=True):
        (gradient,) = torch.autograd.grad(latent[:, 5].sum(), source, retain_graph=True)
        reached.append((gradient.abs().sum(-1) > 0).tolist())
    late = [False] * 3 + [True] * 3
    assert reached[0] == [late, late, late]
    assert reached[1] == [[False] * 2 + [True] * 4, late, [True] * 6], "what burn-in cuts off"
    (gradient,) = torch.autograd.grad(latents[0][0][:, :3].sum(), sources[0])
    assert gradient.abs().max() == 0, "the steps themselves are not trained on"


@pytest.mark.parametrize(("core", "size"), [("none", 0), ("gru", 6), ("lstm", 12)])
def test_an_episode_starts_from_zeros(core: str, size: int) -> None:
    model = make_model(core=core)
    assert model.initial_state(4).shape == (4, size)
    assert model.spec.core_state_size == size
    assert not model.initial_state(4).any()


@pytest.mark.parametrize(("sizes", "factored"), [((3,), False), ((2, 3), True)])
def test_the_unroll_is_the_transition_along_the_taken_actions(sizes: tuple[int, ...], factored: bool) -> None:
    model = make_model(sizes=sizes, factored=factored)
    steps, model_steps = 6, 4
    latent = torch.randn(2, steps, 8)
    actions = torch.stack([torch.randint(n, (2, steps)) for n in sizes], -1)
    outputs = model.unroll(latent, actions if factored else actions[..., 0], ModelNeeds(model_steps, 2, True))
    assert outputs["model_logits_BTKA"].shape == (2, steps, 2, sum(sizes))
    starts = torch.tensor([0, sizes[0]][: len(sizes)])
    for b, t in np.ndindex(2, steps):
        now = latent[b, t]
        for k in range(model_steps):
            if t + k >= steps:
                break
            now = model.transition(now, actions[b, t + k] + starts)
            torch.testing.assert_close(outputs["model_reward_raw_BTK"][b, t, k], model.model_reward(now))
            torch.testing.assert_close(outputs["model_value_raw_BTK"][b, t, k], model.model_value(now))
            if k < 2:
                torch.testing.assert_close(outputs["model_logits_BTKA"][b, t, k], model.model_policy(now))


@pytest.mark.parametrize(
    ("needs", "names"),
    [
        (ModelNeeds(2, 0, True), {"model_reward_raw_BTK", "model_value_raw_BTK"}),
        (ModelNeeds(2, 1), {"model_logits_BTKA"}),
        (ModelNeeds(2, 2, True), {"model_reward_raw_BTK", "model_value_raw_BTK", "model_logits_BTKA"}),
    ],
)
def test_the_unroll_gives_only_what_was_asked_for(needs: ModelNeeds, names: set[str]) -> None:
    model = make_model()
    assert set(model.unroll(torch.randn(1, 3, 8), torch.zeros(1, 3, dtype=torch.long), needs)) == names
    ends = torch.zeros(1, 3, dtype=torch.bool)
    outputs = model(torch.randn(1, 3, OBSERVATION), torch.zeros(1, 0), ends, torch.zeros(1, 3, dtype=torch.long), needs)
    assert set(outputs) == names | {"logits_BTA", "value_raw_BT"}


@pytest.mark.parametrize("scale", [0.5, 0.25, 1.0])
def test_a_gradient_from_k_steps_on_reaches_the_root_times_the_scale_to_the_k_and_values_do_not_change(scale: float) -> None:
    model = make_model().double()
    actions = torch.randint(3, (1, 5))
    latent = torch.randn(1, 5, 8, dtype=torch.float64)

    def reached(k: int, by: float) -> tuple[torch.Tensor, torch.Tensor]:
        root = latent.clone().requires_grad_()
        output = model.unroll(root, actions, ModelNeeds(3, 3, gradient_scale=by))["model_logits_BTKA"][0, 0, k - 1, 0]
        (gradient,) = torch.autograd.grad(output, root)
        return output, gradient

    for k in (1, 2, 3):
        (value, gradient), (plain_value, plain_gradient) = reached(k, scale), reached(k, 1.0)
        assert torch.equal(value, plain_value)
        torch.testing.assert_close(gradient, scale**k * plain_gradient)
        assert plain_gradient.abs().sum() > 0


def test_scaling_a_gradient_is_the_identity_forward() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = ScaleGradient.apply(x, 0.5)  # type: ignore[no-untyped-call]
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad((y * torch.tensor([3.0, 5.0])).sum(), x)
    assert gradient.tolist() == [1.5, 2.5]


def test_no_action_after_an_end_reaches_what_is_read_before_it() -> None:
    # From t, the prediction of step k depends on the actions t .. t + k - 1 alone.
    model = make_model()
    latent, actions = torch.randn(1, 6, 8), torch.zeros(1, 6, dtype=torch.long)
    before = model.unroll(latent, actions, ModelNeeds(4, 4, True))
    actions[:, 3] = 2
    after = model.unroll(latent, actions, ModelNeeds(4, 4, True))
    for name in before:
        same = torch.isclose(before[name], after[name]).all(-1)[0]  # type: ignore[literal-required]
        for t, k in np.ndindex(6, 4):
            follows = t <= 3 <= t + k or (t + k >= 6 and t <= 3)
            assert same[t, k] == (not follows), (name, t, k)


@pytest.mark.parametrize(("sizes", "factored"), [((4,), False), ((4,), True), ((2, 3, 2), True)])
def test_the_model_of_every_action_is_the_transition_of_each(sizes: tuple[int, ...], factored: bool) -> None:
    model = make_model(sizes=sizes, factored=factored)
    latent = torch.randn(5, 8)
    actions = torch.stack([torch.randint(n, (5,)) for n in sizes], -1)
    reward, value = model.every_action(latent, actions if factored else actions[..., 0])
    assert reward.shape == value.shape == (5, sum(sizes))
    starts = [sum(sizes[:factor]) for factor in range(len(sizes))]
    for row in range(5):
        for factor, size in enumerate(sizes):
            for choice in range(size):
                columns = [start + int(taken) for start, taken in zip(starts, actions[row], strict=True)]
                columns[factor] = starts[factor] + choice
                advanced = model.transition(latent[row], torch.tensor(columns))
                expected = model.codec.value(model.model_reward(advanced)), model.codec.value(model.model_value(advanced))
                torch.testing.assert_close(reward[row, columns[factor]], expected[0], atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(value[row, columns[factor]], expected[1], atol=1e-5, rtol=1e-5)


def test_the_transition_is_normalised_and_adds_to_the_latent() -> None:
    # LayerNorm(h + W2 relu(W1 h + b1 + E[a]) + b2), written out.
    torch.manual_seed(0)
    transition = Transition(6, ActionSpace((3,)))
    latent = torch.randn(6)
    pushed = transition.state.weight @ latent + transition.state.bias + transition.action.weight[1]
    inner = latent + transition.output.weight @ pushed.clamp(min=0) + transition.output.bias
    expected = (inner - inner.mean()) / (inner.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(transition(latent, torch.tensor([1])), expected)


@pytest.mark.parametrize("core", CORES)
def test_acting_needs_all_parameters_but_the_dynamics_models(core: str) -> None:
    model = make_model(core=core)
    groups = {name.split(".")[0] for name, _ in acting_parameters(model)}
    assert groups == {"encoder", "policy", "value"} | ({"core"} if core != "none" else set())
    assert [(name, array.shape) for name, array in acting_arrays(model).items()] == list(acting_layout(model))


def test_the_trunk_is_the_encoder_and_the_core() -> None:
    model = make_model(core="gru")
    trunk = {id(parameter) for parameter in model.trunk_parameters()}
    expected = {id(p) for name, p in model.named_parameters() if name.startswith(("encoder.", "core."))}
    assert trunk == expected


def test_separate_trunks_keep_policy_and_value_apart() -> None:
    model = make_model(value_trunk="separate")
    assert model.spec.latent_size == 16
    observations, ends = torch.randn(3, 6, OBSERVATION), torch.zeros(3, 6, dtype=torch.bool)
    outputs = model(observations, torch.zeros(3, 0), ends, torch.zeros(3, 6, dtype=torch.long), ModelNeeds())
    trunk = dict(model.encoder.named_parameters())
    reached = {}
    for head in ("logits_BTA", "value_raw_BT"):
        gradients = torch.autograd.grad(
            outputs[head].square().sum(), list(trunk.values()), allow_unused=True, retain_graph=True
        )
        pairs = zip(trunk, gradients, strict=True)
        reached[head] = {name.split(".")[0] for name, gradient in pairs if gradient is not None and gradient.any()}
    assert reached == {"logits_BTA": {"policy"}, "value_raw_BT": {"value"}}
    acted = model.act(observations[:, 0], torch.zeros(3, 0))
    torch.testing.assert_close(acted.logits, outputs["logits_BTA"][:, 0])


def test_the_unroll_follows_the_actions_that_come_after_single_steps() -> None:
    model = make_model()
    latent, actions = torch.randn(2, 5, 8), torch.randint(3, (2, 5))
    needs = ModelNeeds(3, 3, True)
    whole = model.unroll(latent, actions, needs)
    for t in range(3):
        single = model.unroll(latent[:, t : t + 1], actions[:, t : t + 3], needs)
        for name, output in single.items():
            torch.testing.assert_close(output, whole[name][:, t : t + 1])  # type: ignore[literal-required]
