"""What fixes a network: settings with bounds, the encoder that reads an observation, and the way through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from agent.settings import AgentSettings
from agent.spec import ENCODERS_OF, AgentSpec
from oatmill.errors import SettingsError, UserError
from protocol.data.spaces import ActionSpace, DictSpace, ObservationSpace, Spaces

SPACES = {
    "vector": ObservationSpace("vector", (4,), "float32"),
    "image": ObservationSpace("image", (3, 8, 8), "uint8"),
    "tokens": ObservationSpace("tokens", (6, 3), "uint8", (1.0, 2.0), (1,), 4, (3, 5)),
}


def spec_of(kind: str, **settings: Any) -> AgentSpec:
    return AgentSpec(Spaces(SPACES[kind], ActionSpace((2, 3), factored=True)), AgentSettings.model_validate(settings))


@pytest.mark.parametrize(("kind", "encoder"), [("vector", "mlp"), ("image", "cnn"), ("tokens", "token_grid")])
def test_auto_takes_the_encoder_of_the_observations_kind(kind: str, encoder: str) -> None:
    assert spec_of(kind).encoder == encoder
    assert spec_of(kind, encoder=encoder).encoder == encoder


@pytest.mark.parametrize(("kind", "encoder"), [("vector", "mlp"), ("image", "small_cnn"), ("tokens", "token_grid")])
def test_auto_on_a_cpu_takes_a_smaller_network_for_images_alone(kind: str, encoder: str) -> None:
    assert spec_of(kind, encoder="auto_cpu").encoder == encoder
    assert spec_of(kind, encoder="automatic:make").encoder == "automatic:make"


def test_images_leave_auto_to_the_learners_device_unless_their_encoder_is_named() -> None:
    assert [kind for kind in SPACES if spec_of(kind).depends_on_device] == ["image"]
    assert spec_of("image", encoder="auto_cpu").depends_on_device
    assert not spec_of("image", encoder="cnn").depends_on_device
    spaces = Spaces(DictSpace.of({"camera": SPACES["image"], "place": SPACES["vector"]}), ActionSpace((2,)))
    assert AgentSpec(spaces, AgentSettings()).depends_on_device
    assert not AgentSpec(spaces, AgentSettings(encoders={"camera": "nature"})).depends_on_device


@pytest.mark.parametrize(("kind", "encoder"), [("vector", "cnn"), ("image", "token_set"), ("tokens", "mlp")])
def test_an_encoder_for_other_observations_raises_an_error_with_the_possible_ones(kind: str, encoder: str) -> None:
    choices = ", ".join(ENCODERS_OF[SPACES[kind].kind])
    with pytest.raises(UserError, match=f"agent.encoder={encoder} does not support {kind} observations; use one of {choices}"):
        spec_of(kind, encoder=encoder)


@pytest.mark.parametrize(("core", "state", "latent"), [("none", 0, 32), ("gru", 10, 10), ("lstm", 20, 10)])
def test_the_core_fixes_the_state_and_the_latent(core: str, state: int, latent: int) -> None:
    spec = spec_of("vector", core=core, core_size=10, hidden_sizes=(64, 32))
    assert (spec.core_state_size, spec.latent_size) == (state, latent)


@pytest.mark.parametrize("kind", SPACES)
def test_a_spec_goes_through_json_unchanged(kind: str) -> None:
    spec = spec_of(kind, core="lstm", burn_in=3, hidden_sizes=(16, 8))
    assert AgentSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_sizes": ()},
        {"hidden_sizes": (0,)},
        {"hidden_sizes": (8, -1)},
        {"token_width": 3},
        {"core_size": 0},
        {"burn_in": -1},
        {"num_bins": 600},
        {"num_bins": 1},
        {"value_range": 0},
        {"value_range": float("nan")},
        {"model_hidden": 0},
        {"encoder": "transformer"},
        {"burn_in": 2},
        {"unknown": 1},
    ],
)
def test_settings_out_of_bounds_raise_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AgentSettings.model_validate(settings)


def test_a_burn_in_needs_a_core_and_an_assignment_that_contradicts_it_leaves_no_trace() -> None:
    settings = AgentSettings(core="gru", burn_in=2)
    with pytest.raises(SettingsError, match="burn_in=2 needs a recurrent core"):
        settings.core = "none"
    assert settings.core == "gru"
    with pytest.raises(SettingsError, match="num_bins must be odd"):
        settings.num_bins = 600
    assert settings.num_bins == 601


def test_settings_that_this_version_does_not_take_are_told_in_one_line() -> None:
    values = AgentSpec(Spaces(ObservationSpace("vector", (4,), "float32"), ActionSpace((2,))), AgentSettings()).to_dict()
    values["settings"]["num_bins"] = 4
    with pytest.raises(UserError, match=r"^agent\.num_bins must be odd, so that 0 is a bin, got 4$"):
        AgentSpec.from_dict(values)
