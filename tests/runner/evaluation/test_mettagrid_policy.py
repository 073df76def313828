"""MettaGrid's own loader and policy classes play a policy that was trained on cogs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.loading import load
from oatmill.errors import UserError
from recipes import cogs_v_clips
from tests.deploy.publishing.trained_run import trained_run

pytest.importorskip("mettagrid")
CLASS = "runner.evaluation.mettagrid_policy.OatmillPolicy"


def test_mettagrid_loads_it_and_every_agent_acts_as_oatmill_does(tmp_path: Path) -> None:
    from mettagrid.config.mettagrid_config import MettaGridConfig
    from mettagrid.policy.loader import initialize_or_load_policy
    from mettagrid.policy.policy import PolicySpec
    from mettagrid.policy.policy_env_interface import PolicyEnvInterface
    from mettagrid.simulator import AgentObservation, ObservationToken

    from actors.environments.adapters.cogs import CogsEnvironment
    from actors.environments.adapters.cogs_mission import CogsGame

    settings = cogs_v_clips.settings(num_cogs=4, mission="easy_hearts")
    run = trained_run(tmp_path / "run", settings)
    game: Any = CogsGame(settings.env)  # type: ignore[arg-type]
    info = PolicyEnvInterface.from_mg_cfg(MettaGridConfig(game=game.config))
    spec = PolicySpec(class_path=CLASS, data_path=str(run), init_kwargs={"deterministic": True})
    policy = initialize_or_load_policy(info, spec)
    agents = [policy.agent_policy(i) for i in range(4)]
    loaded = load(run / "checkpoints" / "latest")
    environment = CogsEnvironment(settings.env, 1, 3)  # type: ignore[arg-type]
    rows, rng = environment.reset(), np.random.default_rng(0)
    features: dict[int, Any] = {one.id: one for one in info.obs_features}
    names = list(info.all_action_names)
    for _ in range(5):
        expected = loaded.act(rows, deterministic=True)
        for i, (agent, row) in enumerate(zip(agents, rows, strict=True)):
            raw = [tuple(int(part) for part in token) for token in row if token[0] != 255]
            tokens = [ObservationToken(features.get(token[1]), token[2], token) for token in raw]
            assert agent.step(AgentObservation(i, tokens)).name == names[expected[i]]
        rows = environment.step(rng.integers(0, 157, 4)).observations
    assert names[:5] == ["noop", *(f"move_{way}" for way in ("north", "south", "west", "east"))]
    small = PolicyEnvInterface.from_mg_cfg(
        MettaGridConfig(game=CogsGame(cogs_v_clips.settings(num_cogs=4, mission="easy_hearts_small").env).config)  # type: ignore[arg-type]
    )
    with pytest.raises(UserError, match="was trained on observations and actions of"):
        initialize_or_load_policy(small, spec)
    with pytest.raises(UserError, match="no checkpoint was loaded; give a run folder as data_path"):
        initialize_or_load_policy(info, PolicySpec(class_path=CLASS)).agent_policy(0)
