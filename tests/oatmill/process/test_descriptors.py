from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from oatmill.process.descriptors import RESERVE, WANTED, connections_of, raise_descriptor_limit, too_few

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(256, 1024, 1024), (1024, 1024, 1024), (64, 4096, 4096)],
)
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int, expected: int) -> None:
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from oatmill.process.descriptors import raise_descriptor_limit
print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(expected), str(expected), str(hard)]


def test_the_limit_is_raised_to_a_useful_maximum_and_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (1024, resource.RLIM_INFINITY)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.update(now=wanted))
    assert raise_descriptor_limit() == WANTED
    limits["now"] = (10 * WANTED, 10 * WANTED)
    assert raise_descriptor_limit() == 10 * WANTED


def test_two_sockets_share_the_descriptors_that_are_not_reserved() -> None:
    assert connections_of(1024, 2) == (1024 - RESERVE) // 2
    assert connections_of(100, 2) == 25  # half of so small a limit
    assert connections_of(WANTED, 2) >= 500


def test_five_hundred_actors_fit_into_the_usual_limit_and_a_warning_says_if_not() -> None:
    for hard in (4096, 20_000, 524_288):  # of older and newer systems
        assert too_few(min(hard, WANTED), 2, 500) is None
    line = too_few(1024, 2, 500)
    assert line is not None
    # By hand: (1024 - 128) / 2 = 448 fit, and 2 * 500 + 128 = 1128 are needed.
    assert "enough for 448 actors and not for 500; raise the hard limit of open files to 1128" in line
