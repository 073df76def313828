"""An encoder of the user's own: what is asked of it, and that what does not keep it is refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from agent.encoders import make_encoder
from agent.model import AgentModel
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from oatmill.errors import SettingsError, UserError
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces

OWN = """
import torch
from torch import nn

class Narrow(nn.Module):
    def forward(self, observations): return observations[:, :2].float()

class Doubles(nn.Module):
    def forward(self, observations): return observations.double()

class Constant(nn.Module):
    def __init__(self, persistent):
        super().__init__()
        self.register_buffer("shift", torch.ones(4), persistent=persistent)
    def forward(self, observations): return observations.float() + self.shift

def good(spec): return nn.Sequential(nn.Linear(spec.spaces.observation.shape[0], spec.settings.hidden_sizes[-1]), nn.Tanh())
def narrow(spec): return Narrow()
def doubles(spec): return Doubles()
def text(spec): return "encoder"
def raises(spec): raise KeyError("lost")
def wrong_input(spec): return nn.Linear(99, 4)
def normed(spec): return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
def constant(spec): return Constant(False)
def kept(spec): return Constant(True)
value = 4
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_encoder_module.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_encoder_module", raising=False)


def spec_of(function: str) -> AgentSpec:
    spaces = Spaces(ObservationSpace("vector", (4,), "float32"), ActionSpace((2,)))
    return AgentSpec(spaces, AgentSettings(encoder=f"own_encoder_module:{function}", hidden_sizes=(8, 4)))


@pytest.mark.parametrize("function", ["good", "constant"])
def test_a_module_that_gives_the_width_is_the_networks_encoder(function: str) -> None:
    model = AgentModel(spec_of(function))
    output = model.act(torch.zeros(3, 4), model.initial_state(3))
    assert output.logits.shape == (3, 2)
    assert AgentSpec.from_dict(model.spec.to_dict()) == model.spec


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "narrow",
            r"must return float32 of shape \[2, 4\] for .* got torch\.float32 \[2, 2\]; its width is .* agent\.hidden_sizes$",
        ),
        ("doubles", r"got torch\.float64 \[2, 4\]; its width"),
        ("text", r"must return a torch\.nn\.Module, got str$"),
        (
            "raises",
            r"^agent\.encoder=own_encoder_module:raises raised KeyError: 'lost' "
            r"\(own_encoder_module\.py:\d+, in raises\); expected it to return",
        ),
        ("wrong_input", r"raised RuntimeError: .* on float32 observations of shape \[2, 4\]$"),
        ("normed", r"has the buffers 1\.num_batches_tracked, 1\.running_mean, 1\.running_var, but actors"),
        ("kept", r"has the buffers shift, but actors"),
        ("value", r"own_encoder_module has no function value; expected one that returns a torch\.nn\.Module$"),
        ("nothing", r"own_encoder_module has no function nothing"),
    ],
)
def test_an_invalid_encoder_raises_an_error_of_one_line(function: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        make_encoder(spec_of(function))
    assert "\n" not in str(refusal.value)


def test_an_unknown_encoder_raises_an_error_with_the_known_ones() -> None:
    settings = AgentSettings()
    with pytest.raises(SettingsError, match=r"encoder must be one of auto, .*, or your own as module:make, got 'transformer'$"):
        settings.encoder = "transformer"
    assert settings.encoder == "auto"
