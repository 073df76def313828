"""A learner step as it is and compiled; `python -m tests.learner.update.compile_process CORE` says how far they come apart."""

from __future__ import annotations

import json
import sys

import torch

from tests.learner.worlds import learn, make_batch, make_spec, make_trainer, make_updater_of


def main(core: str) -> None:
    """Print the largest difference of the parameters and of what the losses push with, over the largest number."""
    torch.set_num_threads(1)
    spec = make_spec(core=core)
    found = []
    for compiled in (False, True):
        updater = make_updater_of(make_trainer("full", {"compile": compiled}), spec, gradient_every=1)
        record = learn(updater, make_batch(spec))
        assert record.gradients is not None, "they were to be measured"
        found.append({"parameters": updater.optimizer.flat.array.clone(), "gradients": record.gradients})
    plain, other = found
    apart = {name: float((plain[name] - other[name]).abs().max() / plain[name].abs().max()) for name in plain}
    sys.stdout.write(json.dumps(apart))


if __name__ == "__main__":
    main(sys.argv[1])
