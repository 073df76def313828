"""The plan: its order, what is derived from signatures, what it refuses, and that a reader really reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from agent.model import ModelNeeds
from agent.settings import AgentSettings
from learner.loss import Node, Question, method_reads
from learner.losses.cmpo import ExactCmpo, ReturnCmpo
from learner.losses.cmpo_sampled import SampledCmpo
from learner.losses.dynamics import AdvantageDynamics
from learner.losses.muesli_model import MuesliModel, PriorMuesliModel
from learner.nodes.prior_q import AdvantageQ
from learner.nodes.returns import Retrace
from learner.nodes.sigma import OneStepSigma, Sigma
from learner.plan import LOSSES, Plan, make_plan
from oatmill.errors import SettingsError
from protocol.data.spaces import ActionSpace
from tests.learner.worlds import ARMS, inputs_of, make_batch, make_spec, make_trainer, make_updater_of, weigh

MUESLI_PG = {"losses.ppo_actor.enabled": False, "losses.muesli_pg.enabled": True}
ORDER = ["ppo_critic", "cmpo", "ppo_actor", "dynamics", "muesli_model"]


def plan_of(arm: str, changes: dict[str, Any] | None = None, *, actions: int = 3, head: str = "scalar") -> Plan:
    return make_plan(make_trainer(arm, changes), AgentSettings(value_head=head), ActionSpace((actions,)))


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("baseline", ["forward", "returns", "ppo_critic", "ppo_actor"]),
        ("muesli", ["forward", "prior", "returns", "unroll", "ppo_critic", "ppo_actor", "muesli_model"]),
        ("muesli_cmpo", ["forward", "prior", "returns", "sigma", "unroll", "ppo_critic", "cmpo", "ppo_actor", "muesli_model"]),
        ("full", ["forward", "prior", "prior_q", "returns", "sigma", "unroll", *ORDER]),
    ],
)
def test_each_arm_has_the_nodes_that_it_reads_in_order(arm: str, expected: list[str]) -> None:
    plan = plan_of(arm)
    assert plan.order == expected
    assert plan.losses == [loss for loss in ORDER if loss in expected]
    assert plan.uses_prior == ("prior" in expected)


def test_with_many_actions_the_plan_samples_instead_of_computing_every_q() -> None:
    expected = ["forward", "prior", "prior_samples", "returns", "sigma", "unroll", *ORDER]
    assert plan_of("full", actions=157).order == expected


def test_the_papers_policy_gradient_replaces_ppo() -> None:
    order_of_losses = ["ppo_critic", "cmpo", "muesli_pg", "dynamics", "muesli_model"]
    assert plan_of("full", MUESLI_PG).losses == order_of_losses
    many = plan_of("full", MUESLI_PG, actions=157)
    assert {"prior_q", "prior_samples"} <= set(many.order)
    assert "muesli_pg evaluates the prior's model for all 157 actions" in many.notes


def test_actors_act_with_a_prior_only_where_there_is_one() -> None:
    assert plan_of("muesli_cmpo", {"acting_network": "prior"}).uses_prior
    with pytest.raises(SettingsError, match=r"^trainer\.acting_network=prior needs a loss with a prior network"):
        plan_of("baseline", {"acting_network": "prior"})


def test_the_autos_of_the_four_arms() -> None:
    advantage, estimator = "trainer.losses.cmpo.advantage", "trainer.losses.cmpo.estimator"
    target = "trainer.losses.muesli_model.policy_target"
    assert {arm: dict(plan_of(arm).auto) for arm in ARMS} == {
        "baseline": {},
        "muesli": {target: "prior"},
        "muesli_cmpo": {advantage: "sampled", target: "cmpo"},
        "full": {advantage: "model", estimator: "exact", target: "cmpo"},
    }
    assert plan_of("full", actions=157).auto[estimator] == "sampled"
    assert {PriorMuesliModel} == {node for node in plan_of("muesli").nodes if node.name == "muesli_model"}
    assert {ReturnCmpo, MuesliModel} <= set(plan_of("muesli_cmpo").nodes)
    assert {ExactCmpo, MuesliModel} <= set(plan_of("full").nodes)
    assert SampledCmpo in plan_of("full", actions=157).nodes


@pytest.mark.parametrize(
    ("arm", "changes", "needs"),
    [
        ("baseline", {}, ModelNeeds()),
        ("muesli", {"losses.muesli_model.policy_horizon": 5}, ModelNeeds(5, 5)),
        ("full", {}, ModelNeeds(3, 1, rewards_and_values=True)),
        ("full", {"losses.dynamics.unroll_steps": 5, "losses.muesli_model.policy_horizon": 4}, ModelNeeds(5, 4, True)),
        ("full", {"losses.dynamics.gradient_scale": 0.25, "losses.muesli_model.enabled": False}, ModelNeeds(3, 0, True, 0.25)),
    ],
)
def test_the_unroll_is_as_long_as_the_longest_that_is_asked(arm: str, changes: dict[str, Any], needs: ModelNeeds) -> None:
    assert plan_of(arm, changes).needs == needs


@pytest.mark.parametrize(("arm", "computed"), [("baseline", False), ("muesli", False), ("muesli_cmpo", True)])
def test_sigma_is_computed_if_a_loss_reads_it(arm: str, computed: bool) -> None:
    assert ("sigma" in plan_of(arm).order) == computed


def test_a_model_that_is_off_does_not_change_sigma() -> None:
    plan = plan_of("muesli_cmpo", {"losses.dynamics.value_target": "advantage"})
    assert Sigma in plan.nodes
    assert OneStepSigma not in plan.nodes


def test_retrace_takes_the_place_of_gae() -> None:
    plan = plan_of("full", {"returns": "retrace"})
    assert Retrace in plan.nodes
    assert plan.order.index("prior_q") < plan.order.index("returns") < plan.order.index("sigma")


def test_a_model_of_advantages_gets_its_scale_before_q_and_returns() -> None:
    plan = plan_of("full", {"returns": "retrace", "losses.dynamics.value_target": "advantage"})
    assert {AdvantageDynamics, AdvantageQ, OneStepSigma} < set(plan.nodes)
    assert plan.order.index("sigma") < plan.order.index("prior_q") < plan.order.index("returns")
    # Its q does not need the reward's part.
    assert (
        plan_of("full", {"losses.dynamics.value_target": "advantage", "losses.dynamics.reward_pred_coef": 0}).auto[
            "trainer.losses.cmpo.advantage"
        ]
        == "model"
    )


@pytest.mark.parametrize(
    ("arm", "changes", "message"),
    [
        ("muesli", {"losses.muesli_model.policy_target": "cmpo"}, r"policy_target=cmpo needs trainer\.losses\.cmpo\.enabled"),
        ("muesli_cmpo", {"losses.cmpo.advantage": "model"}, r"advantage=model needs trainer\.losses\.dynamics\.enabled"),
        ("full", {"losses.muesli_model.policy_horizon": 4}, r"policy_horizon must be at most .*unroll_steps=3, got 4"),
        (
            "muesli_cmpo",
            {"returns": "retrace"},
            r"returns=retrace needs the dynamics model: trainer\.losses\.dynamics\.enabled=true",
        ),
        ("full", {"returns": "retrace", "losses.dynamics.reward_pred_coef": 0}, r"returns=retrace .* both of its coefficients"),
        ("baseline", {"losses.ppo_critic.enabled": False, "losses.ppo_actor.enabled": False}, r"every loss is disabled"),
        (
            "full",
            {"losses.muesli_pg.enabled": True},
            r"ppo_actor and .*muesli_pg are both enabled, but each is a complete policy",
        ),
        ("muesli_cmpo", MUESLI_PG, r"muesli_pg needs the dynamics model: trainer\.losses\.dynamics\.enabled=true"),
        ("full", MUESLI_PG | {"losses.dynamics.returns_pred_coef": 0}, r"muesli_pg needs .* with both of its coefficients"),
        ("full", {"on_red_flag": "reduce", "balance": "gradient_share"}, r"would work against each other"),
        ("baseline", {"gamma": 0.9, "losses.ppo_critic.gamma": 0.8}, r"gamma=0\.9 .*gamma=0\.8 name the same discount"),
    ],
)
def test_contradicting_settings_raise_an_error(arm: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan_of(arm, changes)


def test_a_horizon_beyond_the_unroll_is_only_refused_with_dynamics_on() -> None:
    assert plan_of("muesli", {"losses.muesli_model.policy_horizon": 4}).needs.unroll_steps == 4


def test_the_notes_say_what_is_a_heuristic_and_what_is_ignored() -> None:
    clipped = {"losses.ppo_critic.clip_vloss": True}
    assert any("vf_clip_coef is ignored" in note for note in plan_of("baseline", clipped, head="categorical").notes)
    assert not plan_of("baseline", clipped).notes
    assert any("not of the paper" in note for note in plan_of("muesli_cmpo").notes)
    assert any("without dynamics" in note for note in plan_of("muesli").notes)
    assert any("estimated from 16 actions" in note for note in plan_of("full", actions=157).notes)
    (note,) = plan_of("full", {"losses.cmpo.baseline": "prior_expected_q"}, actions=157).notes
    assert "their mean q is the baseline" in note
    assert not plan_of("full").notes
    factored = ActionSpace((2, 3), factored=True)
    assert any("the expected q of each factor" in note for note in make_plan(make_trainer(), AgentSettings(), factored).notes)
    chosen = make_trainer("full", {"losses.cmpo.baseline": "prior_expected_q"})
    assert not make_plan(chosen, AgentSettings(), factored).notes
    corrected = make_trainer("full", {"losses.cmpo.baseline": "prior_expected_q", "returns": "retrace"})
    (note,) = make_plan(corrected, AgentSettings(), factored).notes
    assert "uses the prior network's value instead of the expected q" in note
    assert not make_plan(corrected, AgentSettings(), ActionSpace((3,))).notes


def test_reads_and_writes_are_derived_from_the_signatures() -> None:
    plan = plan_of("full")
    assert plan.reads["ppo_critic"] == ["mask_BT", "value_raw_BT", "value_target_BT"]
    assert plan.writes["returns"] == ["action_return_BT", "advantage_BT", "value_target_BT"]
    assert plan.writes["forward"] == [
        "final_value_BT",
        "importance_ratio_BT",
        "logits_BTA",
        "old_log_probs_BTA",
        "old_value_BT1",
        "value_raw_BT",
    ]
    assert plan.writes["unroll"] == ["model_logits_BTKA", "model_reward_raw_BTK", "model_value_raw_BTK"]
    assert "sigma" in plan.reads["cmpo"]


def test_every_choice_answers_the_same_question() -> None:
    question = Question(make_trainer("full"), make_spec().settings, ActionSpace((3,)))
    assert [choice.loss.name for choose in LOSSES if (choice := choose(question))] == ORDER


ARMS_AND_MORE: dict[str, tuple[str, dict[str, Any]]] = {arm: (arm, {}) for arm in ARMS} | {
    "sampled": ("full", {"losses.cmpo.estimator": "sampled"}),
    "retrace": ("full", {"returns": "retrace"}),
    "advantage": ("full", {"losses.dynamics.value_target": "advantage"}),
    "advantage_retrace": ("full", {"losses.dynamics.value_target": "advantage", "returns": "retrace"}),
    "advantage_sampled": ("full", {"losses.dynamics.value_target": "advantage", "losses.cmpo.estimator": "sampled"}),
    "proximal": ("baseline", {"losses.ppo_actor.anchor": "proximal", "losses.ppo_actor.norm_adv": False}),
    "muesli_pg": ("full", MUESLI_PG),
    "muesli_pg_retrace": ("full", MUESLI_PG | {"returns": "retrace"}),
    "clipped": ("baseline", {"losses.ppo_critic.clip_vloss": True}),
}


@pytest.mark.parametrize("case", ARMS_AND_MORE)
def test_every_declared_input_affects_the_loss(case: str) -> None:
    # The one known implementation computed CMPO targets that no loss consumed, and its unit tests passed.
    spec = make_spec()
    updater = make_updater_of(make_trainer(*ARMS_AND_MORE[case]), spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec, seed=2, absent=True)))
    clean = weigh(updater, values)
    frozen = sorted(set(values) - set(inputs_of(updater, make_batch(spec))))
    for loss in updater.objective.losses:
        for name in frozen:
            if name in method_reads(type(loss), "compute"):
                changed = values | {name: disturbed(values[name])}
                assert differs(clean, weigh(updater, changed), loss.name), f"{loss.name} does not read {name}"
    for node in updater.objective.nodes:
        for name in frozen:
            if name in method_reads(type(node), "prepare"):
                assert written(node, values) != written(node, values | {name: disturbed(values[name])}), f"{node.name}: {name}"


def disturbed(tensor: Tensor) -> Tensor:
    """Numbers that differ from the old ones everywhere, of the same kind."""
    if tensor.dtype == torch.bool:
        return ~tensor
    if not tensor.is_floating_point():
        return (tensor + 1) % (tensor.max() + 1)
    return tensor * 1.3 + 0.1 * torch.arange(1, tensor.numel() + 1).view(tensor.shape) / tensor.numel()


def differs(before: Any, after: Any, loss: str) -> bool:
    """Whether a loss's value or anything that it reports has changed."""
    columns = [position for position, (owner, _) in enumerate(before.keys) if owner == loss]
    return not torch.equal(before.sums[:, columns], after.sums[:, columns])


def written(node: Node, values: dict[str, Tensor]) -> list[Any]:
    prepare: Any = node.prepare  # type: ignore[attr-defined]
    generator = getattr(node, "generator", None)
    if generator is not None:
        generator.manual_seed(0)
    with torch.no_grad():
        result = prepare(**{name: values[name] for name in method_reads(type(node), "prepare")})
    return [tensor.tolist() for tensor in result.values()]
