"""The device, the precision and the threads that `auto` chooses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.encoders import make_encoder
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from learner import device
from learner.device import choose_device, in_bfloat16, learner_threads, multiplies_bfloat16, usable_cores
from learner.settings import TrainerSettings
from oatmill.errors import UserError
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces


def test_a_missing_gpu_raises_an_error_and_auto_uses_the_available_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer\.device=cuda needs a CUDA GPU .* set it to cpu or auto"):
        choose_device("cuda", 0)
    assert choose_device("auto", 0) == choose_device("cpu", 0) == torch.device("cpu")


def test_without_an_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "CGROUPS", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7


CPU = torch.device("cpu")
CPUS: list[tuple[dict[str, Any], bool]] = [
    ({"avx512_bf16": True, "amx_bf16": True}, True),
    ({"avx512_bf16": True, "amx_bf16": False}, False),
    ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel(R) Xeon(R) Processor"}, False),
    ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "AMD EPYC"}, True),
    ({"avx512_bf16": False, "cpu_name": "AMD EPYC"}, False),
    ({}, False),
]


def encoder_of(name: str, *shape: int, dtype: str = "uint8") -> torch.nn.Module:
    space = ObservationSpace("image" if len(shape) > 1 else "vector", shape, dtype)
    settings = AgentSettings(encoder=name, hidden_sizes=(4,))
    return make_encoder(AgentSpec(Spaces(space, ActionSpace((2,))), settings))


@pytest.mark.parametrize(("found", "has"), CPUS)
def test_a_cpu_multiplies_bfloat16_if_torch_says_so(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], has: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert multiplies_bfloat16() is has


def test_a_torch_that_does_not_know_its_cpu_does_not_choose_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not multiplies_bfloat16()


def test_auto_is_bfloat16_on_a_cpu_that_multiplies_it_where_the_encoder_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: True)
    images = {name: encoder_of(name, 4, 84, 84) for name in ("nature", "small_cnn", "cnn")}
    assert all(in_bfloat16("auto", CPU, encoder) for encoder in images.values())
    assert in_bfloat16("auto", CPU, encoder_of("small_cnn", 3, 64, 64))
    # 42 is no multiple of 4; 10x10 is small; float images have no bytes to rearrange; vectors have no convolutions.
    assert not in_bfloat16("auto", CPU, encoder_of("nature", 4, 42, 42))
    assert not in_bfloat16("auto", CPU, encoder_of("small_cnn", 4, 10, 10))
    assert not in_bfloat16("auto", CPU, encoder_of("nature", 4, 84, 84, dtype="float32"))
    assert not in_bfloat16("auto", CPU, encoder_of("mlp", 5, dtype="float32"))
    assert not in_bfloat16("auto", torch.device("cuda"), images["nature"])
    assert not in_bfloat16("float32", CPU, images["nature"])
    assert in_bfloat16("bfloat16", CPU, encoder_of("mlp", 5, dtype="float32"))
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: False)
    assert not in_bfloat16("auto", CPU, images["nature"])


@pytest.mark.parametrize(
    ("machine", "half", "threads"),
    [
        # 3 epochs: 1 + 3 * 3 = 10 passes for the learner, 3 for the actors: 10 / 13 of the cores.
        ((2, 2, 1), False, 2),  # 1.5
        ((16, 16, 1), False, 12),  # 12.3
        ((16, 16, 2), False, 6),
        ((1, 2, 1), False, 1),
        # In bfloat16 4.5 passes: 4.5 / 7.5 of the cores.
        ((2, 2, 1), True, 1),  # 1.2
        ((16, 16, 1), True, 10),  # 9.6
        ((16, 2, 1), True, 14),  # two actors leave 14 cores
        ((2, 64, 4), True, 1),
    ],
)
def test_threads_share_the_cores_between_learner_and_actors(
    monkeypatch: pytest.MonkeyPatch, machine: tuple[int, int, int], half: bool, threads: int
) -> None:
    cores, actors, ranks = machine
    monkeypatch.setattr(device, "usable_cores", lambda: cores)
    trainer = TrainerSettings(epochs=3, learners=ranks)
    settings = {"actors": {"count": actors}}
    assert learner_threads(trainer, settings, encoder_of("nature", 4, 84, 84), half=half) == threads
    assert learner_threads(trainer, settings, encoder_of("nature", 4, 42, 42), half=half) == threads
    assert learner_threads(trainer, settings, encoder_of("mlp", 5, dtype="float32"), half=half) == 1
    trainer.threads = 7
    assert learner_threads(trainer, settings, encoder_of("mlp", 5, dtype="float32"), half=half) == 7


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "350000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(device, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert usable_cores() == cores
