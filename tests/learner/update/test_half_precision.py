"""An encoder in bfloat16: its gradients are close to float32, and heads and losses stay in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from agent.spec import AgentSpec
from learner.cost import one_trajectory
from learner.setup import LearnerConfig, make_updater
from learner.step_time import copies
from learner.update.forward import model_outputs
from learner.update.objective import Weighed
from oatmill.settings.base import MetricsSettings
from protocol.data.spaces import ObservationSpace, Spaces
from tests.learner.worlds import ONE, PLANS, inputs_of, learn, make_batch, make_spec, make_trainer, make_updater_of

CASES: dict[str, tuple[str, dict[str, Any]]] = {arm: (arm, {}) for arm in PLANS} | {
    "sampled": ("full", {"losses.cmpo.estimator": "sampled"}),
    "proximal": ("full", {"losses.ppo_actor.anchor": "proximal"}),
}


@pytest.mark.parametrize("head", ["scalar", "categorical"])
@pytest.mark.parametrize("case", CASES)
def test_every_term_of_bfloat16_outputs_is_float32_and_what_float32_outputs_give(case: str, head: str) -> None:
    spec = make_spec(value_head=head)
    updater = make_updater_of(make_trainer(*CASES[case]), spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec)))
    minibatch = updater.objective.minibatch(values, torch.arange(6))
    outputs = cast("dict[str, Tensor]", model_outputs(updater.wrapped, minibatch, updater.plan.needs))
    half = {name: output.bfloat16() for name, output in outputs.items()}
    rounded = {name: output.float() for name, output in half.items()}
    for loss in updater.objective.losses:
        reads = updater.objective.reads["compute"][loss.name]
        of_half = loss.compute(**{name: (minibatch | half)[name] for name in reads})
        of_rounded = loss.compute(**{name: (minibatch | rounded)[name] for name in reads})
        for name, term in of_half.items():
            if term.value.is_floating_point():
                assert term.value.dtype == torch.float32, f"{loss.name}.{name}"
            assert torch.equal(kept(term.value, term.mask), kept(of_rounded[name].value, term.mask)), f"{loss.name}.{name}"
    weighed: Weighed = updater.objective.weigh(minibatch, half)  # type: ignore[arg-type]
    assert weighed.total.dtype == torch.float32


def kept(value: Tensor, mask: Tensor) -> Tensor:
    return value[mask]


def test_only_the_encoder_is_computed_in_bfloat16() -> None:
    spec = make_spec(core="gru")
    updater = make_updater_of(make_trainer("full", {"precision": "bfloat16"}), spec)
    seen: dict[str, set[tuple[torch.dtype, bool]]] = {}
    for name, module in updater.context.model.named_children():

        def note(module: nn.Module, given: tuple[Tensor, ...], output: object, name: str = name) -> None:
            del module
            tensors = [part for part in (given[0], output) if isinstance(part, Tensor)]
            seen.setdefault(name, set()).update((tensor.dtype, torch.is_autocast_enabled("cpu")) for tensor in tensors)

        module.register_forward_hook(note)
    learn(updater, make_batch(spec))
    assert seen.pop("encoder") == {(torch.float32, True), (torch.bfloat16, True)}
    assert seen
    assert set().union(*seen.values()) == {(torch.float32, False)}
    assert updater.context.prior.in_bfloat16


@pytest.mark.parametrize("encoder", ["nature", "small_cnn", "cnn"])
def test_the_update_of_images_in_bfloat16_has_the_direction_and_the_losses_of_float32(encoder: str) -> None:
    spaces = Spaces(ObservationSpace("image", (4, 36, 36), "uint8"), make_spec().spaces.action)
    settings = make_spec(hidden_sizes=(32,), activation="relu").settings.model_copy(update={"encoder": encoder})
    spec = AgentSpec(spaces, settings)
    one = cast("dict[str, Tensor]", one_trajectory(spec, 6))
    inputs = {name: copies(value, rows=8) for name, value in one.items()}
    gradients, losses = [], []
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer("full", {"precision": precision, "epochs": 1, "minibatches": 1})
        torch.manual_seed(0)
        updater = make_updater(LearnerConfig(trainer, settings, MetricsSettings(), {}, "", Path()), spec, ONE)
        record = updater.learn(inputs, learning_rate=0.0, report=False)
        assert record.skipped == 0
        gradients.append(updater.optimizer.flat.gradient().clone())
        losses.append(record.sums[0][0] / record.sums[0][1].clamp(min=1))
    assert gradients[1].dtype == torch.float32
    assert torch.cosine_similarity(gradients[0], gradients[1], 0) > 0.99
    assert 0.95 < gradients[1].norm() / gradients[0].norm() < 1.05
    torch.testing.assert_close(losses[1], losses[0], atol=0.03, rtol=0.05)
