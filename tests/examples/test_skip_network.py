"""The example of a network of one's own: what it computes, and a real run with it in the example's environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from agent.model import AgentModel, acting_layout
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from examples.skip_network import SkipBlock, SkipEncoder, make
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from tests.system.real_runs import ROOT, SMALL, oatmill


def spec_of(observation: ObservationSpace) -> AgentSpec:
    settings = AgentSettings(encoder="examples.skip_network:make", hidden_sizes=(16, 16, 8))
    return AgentSpec(Spaces(observation, ActionSpace((3,))), settings)


def test_a_block_starts_as_the_identity_and_then_adds() -> None:
    block, x = SkipBlock(2), torch.tensor([[1.0, 3.0]])
    assert block(x).tolist() == [[1.0, 3.0]]
    with torch.no_grad():
        block.layer.weight.copy_(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    # LayerNorm gives -1 and 1 (up to its epsilon), relu 0 and 1: the first entry rises by 2.
    assert block(x)[0].tolist() == pytest.approx([3.0, 3.0], abs=1e-4)


def test_it_reads_vectors_and_images_and_has_the_width_that_the_heads_expect() -> None:
    for observation in (ObservationSpace("vector", (5,), "float32"), ObservationSpace("image", (3, 4, 4), "uint8")):
        encoder = make(spec_of(observation))
        assert isinstance(encoder, SkipEncoder)
        assert len(encoder.blocks) == 2
        assert encoder(torch.zeros(7, *observation.shape)).shape == (7, 8)


def test_its_parameters_are_the_trunk_and_travel_to_the_actors() -> None:
    model = AgentModel(spec_of(ObservationSpace("vector", (5,), "float32")))
    assert isinstance(model.encoder, SkipEncoder)
    assert {id(parameter) for parameter in model.encoder.parameters()} <= {id(p) for p in model.trunk_parameters()}
    names = {entry[0] for entry in acting_layout(model)}
    assert "encoder.blocks.1.layer.weight" in names


def test_environment_and_network_of_ones_own_are_trained_and_played(tmp_path: Path) -> None:
    shown = oatmill(
        ROOT,
        *("train", "cartpole", "--run-dir", str(tmp_path / "run"), "--json", *SMALL, "actors.count=1"),
        *("trainer.total_timesteps=4096", "env.kind=factory", "env.factory=examples.corridor:make_env"),
        *("agent.encoder=examples.skip_network:make", "metrics.tensorboard=true"),
    )
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["episode_return"]["n"] > 0
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
    played = oatmill(ROOT, "eval", str(tmp_path / "run"), "--trust", "--episodes", "3", "--json")
    assert played.returncode == 0, played.stderr
    assert json.loads(played.stdout)["episode_return"]["n"] == 3
