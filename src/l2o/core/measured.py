"""What was measured of runs: plain arrays, which are read without JAX."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Curves(NamedTuple):
    """What `l2o.evaluate` measured."""

    losses: Float[np.ndarray, "num_tasks horizon_plus_1"]  # [:, t] is the loss after t steps
    metrics: dict[str, Float[np.ndarray, " num_tasks"]]  # of the params after `horizon` steps
