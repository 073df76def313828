"""What rlax answers to the cases in a file: `python -m tests.learner.nodes.rlax_process CASES.npz ANSWERS.npz`.

A process of its own: jax starts threads that make every later fork of the test process warn, and warns itself at import.
"""

from __future__ import annotations

import sys

import jax
import numpy as np
import rlax

from protocol.data.trajectory import Array


def answers(cases: dict[str, Array]) -> dict[str, Array]:
    """One entry a function of rlax, over the rows of the cases."""
    gamma, lam = float(cases["gamma"]), float(cases["lambda"])
    rewards, values, ratios = cases["rewards"], cases["values"], cases["ratios"]
    ends, cut = cases["terminated"], cases["truncated"]
    discount = gamma * (1.0 - ends)
    # A cut is a mixing parameter of 0 there, and the final observation's value in the place of the next one's.
    mixing = lam * (1.0 - cut)
    following = np.where(cut > 0, cases["final_values"], values[:, 1:])

    def each_row(function: object, *columns: Array) -> Array:
        return np.asarray(jax.vmap(function)(*columns))

    errors = each_row(rlax.vtrace, values[:, :-1], following, rewards, discount, ratios, mixing)
    whole = each_row(
        lambda v, n, r, d, rho: rlax.vtrace_td_error_and_advantage(v, n, r, d, rho, lam, 1.0, 1e9).pg_advantage,
        values[:, :-1],
        values[:, 1:],
        rewards,
        discount,
        ratios,
    )
    c = lam * np.minimum(1.0, ratios[:, 1:]) * (1.0 - cut[:, :-1])
    return {
        "gae": each_row(
            lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, lam, v), rewards, discount, values
        ),
        "vtrace_errors": errors,
        "vtrace_advantages": whole,
        "retrace": each_row(
            rlax.general_off_policy_returns_from_q_and_v, cases["q_taken"][:, 1:], following, rewards, discount, c
        ),
        "surrogate": each_row(
            lambda ratio, advantage: rlax.clipped_surrogate_pg_loss(ratio[None], advantage[None], 0.2),
            ratios.ravel(),
            rewards.ravel(),
        ).reshape(ratios.shape),
        "surrogate_gradient": np.asarray(
            jax.grad(lambda r: rlax.clipped_surrogate_pg_loss(r, rewards.ravel(), 0.2))(ratios.ravel())
        ),
        "two_hot": np.asarray(rlax.transform_to_2hot(cases["numbers"], -20.0, 20.0, 41)),
        "signed_hyperbolic": np.asarray(rlax.signed_hyperbolic(cases["numbers"])),
        "signed_parabolic": np.asarray(rlax.signed_parabolic(cases["numbers"])),
    }


def main() -> None:
    """Read, answer, write."""
    jax.config.update("jax_enable_x64", val=True)
    with np.load(sys.argv[1]) as cases:
        np.savez(sys.argv[2], allow_pickle=False, **answers(dict(cases)))


if __name__ == "__main__":
    main()
