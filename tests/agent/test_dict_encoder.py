"""Encoders of Dict observations: which one a key gets, what they compute, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.dict_encoder import DictEncoder, KeyEncoder
from agent.encoders import ImageEncoder, TokenGridEncoder, VectorEncoder, make_encoder
from agent.model import AgentModel
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from oatmill.errors import SettingsError, UserError
from protocol.data.observations import ObservationDict
from protocol.data.spaces import ActionSpace, DictSpace, ObservationSpace, Spaces

CAMERA = ObservationSpace("image", (3, 8, 8), "uint8")
PLACE = ObservationSpace("vector", (2,), "float32")
FLAGS = ObservationSpace("vector", (3,), "bool")
TOKENS = ObservationSpace("tokens", (5, 3), "uint8", feature_scales=(1.0, 9.0))
MASK = ObservationSpace("mask", (2,), "bool")


def spec_of(keys: dict[str, ObservationSpace], **settings: object) -> AgentSpec:
    agent = AgentSettings.model_validate({"hidden_sizes": (6, 4)} | settings)
    return AgentSpec(Spaces(DictSpace.of(keys), ActionSpace((2,))), agent)


def widths_of(encoder: DictEncoder) -> list[int]:
    """What the joining layers read."""
    return [layer.in_features for layer in encoder.layers.modules() if isinstance(layer, torch.nn.Linear)]


def test_vectors_are_joined_as_they_are_by_the_dense_layers() -> None:
    encoder = make_encoder(spec_of({"place": PLACE, "flags": FLAGS}))
    place, flags = np.array([[0.5, -1.0]], np.float32), np.array([[True, False, True]])
    encoded = encoder(ObservationDict({"place": torch.tensor(place), "flags": torch.tensor(flags)}))
    x = np.concatenate([flags, place], 1).astype(np.float64)  # sorted by key
    weights = [parameter.detach().numpy() for parameter in encoder.parameters()]
    for weight, bias in (weights[:2], weights[2:]):
        x = np.tanh(x @ weight.T + bias)
    np.testing.assert_allclose(encoded.detach().numpy(), x, atol=1e-6)


def test_each_kind_gets_its_encoder_and_their_outputs_stand_side_by_side() -> None:
    spec = spec_of({"camera": CAMERA, "place": PLACE, "team": TOKENS})
    assert {path: spec.encoder_of(path) for path in spec.seen} == {"camera": "cnn", "place": "none", "team": "token_grid"}
    assert spec.encoder == "dict"
    encoder = make_encoder(spec)
    assert isinstance(encoder, DictEncoder)
    assert [type(part) for part in encoder.encoders] == [ImageEncoder, TokenGridEncoder]
    assert widths_of(encoder) == [2 + 6 + 6, 6]
    observations = ObservationDict(
        {
            "camera": torch.randint(0, 255, (3, 3, 8, 8), dtype=torch.uint8),
            "place": torch.randn(3, 2),
            "team": torch.randint(0, 2, (3, 5, 3), dtype=torch.uint8),
        }
    )
    images, tokens = encoder.encoders
    columns = [observations["place"], images(observations["camera"]), tokens(observations["team"])]
    assert encoder(observations).equal(encoder.layers(torch.cat(columns, 1)))


def test_a_keys_encoder_is_chosen_by_its_setting() -> None:
    spec = spec_of({"pose/place": PLACE, "flags": FLAGS}, encoders={"pose/place": "mlp"})
    encoder = make_encoder(spec)
    assert isinstance(encoder, DictEncoder)
    assert encoder.vectors == ("flags",)
    assert [type(part) for part in encoder.encoders] == [VectorEncoder]
    assert widths_of(encoder) == [3 + 6, 6]
    assert AgentSpec.from_dict(spec.to_dict()) == spec


def test_one_key_beside_a_mask_is_encoded_as_a_plain_observation_is() -> None:
    spec = spec_of({"observation": PLACE, "action_mask": MASK}, encoder="mlp")
    encoder = make_encoder(spec)
    assert isinstance(encoder, KeyEncoder)
    assert isinstance(encoder.encoder, VectorEncoder)
    seen = torch.randn(3, 2)
    masks = torch.ones(3, 2, dtype=torch.bool)
    assert encoder(ObservationDict({"observation": seen, "action_mask": masks})).equal(encoder.encoder(seen))


def test_keys_may_have_any_name() -> None:
    # torch's ModuleDict refuses a dot and the names of its own methods.
    spec = spec_of({"a.b": PLACE, "keys": PLACE, "forward": FLAGS}, encoders=dict.fromkeys(("a.b", "keys", "forward"), "mlp"))
    model = AgentModel(spec)
    observations = ObservationDict({path: torch.zeros(2, *part.shape) for path, part in spec.seen.items()})
    assert model.act(observations, model.initial_state(2)).logits.shape == (2, 2)


def test_policy_and_value_may_have_encoders_of_their_own() -> None:
    model = AgentModel(spec_of({"place": PLACE, "flags": FLAGS}, value_trunk="separate"))
    observations = ObservationDict({"place": torch.zeros(2, 2), "flags": torch.zeros(2, 3, dtype=torch.bool)})
    assert model.act(observations, model.initial_state(2)).value.shape == (2,)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"encoder": "mlp"},
            "reads one observation, and this is a Dict of camera, place; set agent.encoders.camera=mlp",
        ),
        ({"encoders": {"lidar": "mlp"}}, "agent.encoders.lidar names no key of the observation; there are: camera, place"),
        (
            {"encoders": {"camera": "mlp"}},
            "camera=mlp does not support image observations; use one of cnn, nature",
        ),
        ({"encoders": {"camera": "none"}}, "agent.encoders.camera=none does not support image observations"),
        ({"encoders": {"place": "cnn"}}, "agent.encoders.place=cnn does not support vector observations; use one of mlp, none"),
        ({"encoder": "x:y", "encoders": {"place": "mlp"}}, "agent.encoder=x:y reads all keys; leave agent.encoders empty"),
    ],
)
def test_an_encoder_that_does_not_read_a_key_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as caught:
        spec_of({"camera": CAMERA, "place": PLACE}, **settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_encoders_by_key_need_several_keys_and_known_names() -> None:
    with pytest.raises(UserError, match="there are: none, for the observation is no Dict of several keys"):
        AgentSpec(Spaces(PLACE, ActionSpace((2,))), AgentSettings(encoders={"place": "mlp"}))
    with pytest.raises(SettingsError, match=r"encoders\.place must be one of auto, .*, none, got 'transformer'"):
        AgentSettings().encoders = {"place": "transformer"}


OWN = """
import torch
from torch import nn

class Sums(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.keys = sorted(spec.seen)
        self.out = nn.Linear(len(self.keys), spec.settings.hidden_sizes[-1])
    def forward(self, observations):
        return self.out(torch.stack([observations[key].float().flatten(1).sum(1) for key in self.keys], 1))

class Plain(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.out = nn.Linear(spec.spaces.observation.shape[0], spec.settings.hidden_sizes[-1])
    def forward(self, observations): return self.out(observations)

class Narrow(nn.Module):
    def forward(self, observations): return observations["place"]

def sums(spec): return Sums(spec)
def plain(spec): return Plain(spec)
def narrow(spec): return Narrow()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_dict_encoder.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_dict_encoder", raising=False)


@pytest.mark.usefixtures("own")
def test_a_network_of_ones_own_gets_a_tensor_a_key() -> None:
    model = AgentModel(spec_of({"camera": CAMERA, "place": PLACE}, encoder="own_dict_encoder:sums"))
    observations = ObservationDict({"camera": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "place": torch.zeros(2, 2)})
    assert model.act(observations, model.initial_state(2)).logits.shape == (2, 2)
    with pytest.raises(UserError, match=r"uint8 observations of shape \[2, 3, 8, 8\] in camera, float32 .* in place, got"):
        make_encoder(spec_of({"camera": CAMERA, "place": PLACE}, encoder="own_dict_encoder:narrow"))


@pytest.mark.usefixtures("own")
def test_a_network_of_ones_own_sees_the_plain_observation_beside_a_mask() -> None:
    encoder = make_encoder(spec_of({"observation": PLACE, "action_mask": MASK}, encoder="own_dict_encoder:plain"))
    assert isinstance(encoder, KeyEncoder)
