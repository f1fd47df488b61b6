"""A learned optimizer that does not depend on the loss's scale: its first gradient is made as large as those it knows."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o.core import scale
from l2o.core.checks import positive
from l2o.core.optimizer import AbstractFlat, AbstractLearnedOptimizer, OptState

RescaledState: TypeAlias = tuple[OptState, Float[Array, " num"]]  # the rule's, and c (0: not known yet)


class Rescaled(AbstractFlat):
    r"""`optimizer` on gradients multiplied by one number, which gives the first of them a root mean square of `rms`.

    $$[u_t, h_{t+1}] = m(c\, \nabla_t, h_t; \varphi), \qquad c = \frac{\texttt{rms}}{\lVert \nabla_0 \rVert / \sqrt n}$$

    It is what multiplying the loss by $c$ would be, so the steps do not depend on the loss's units, on whether it is a sum or a
    mean, nor, as far as these only make all gradients larger or smaller, on the problem's size. A learned optimizer is at home
    with gradients as large as those of its meta-training; how large they were, shipped weights say:

    ```python
    low, median, high = l2o.pretrained.header("lstm-mnist")["scale"]["start"]
    optimizer = l2o.Rescaled(l2o.load("lstm-mnist"), median)
    ```

    A first gradient that is zero or not finite is passed on as it is, and $c$ is taken from the next. On minibatches $c$ is as
    noisy as the first one's norm. The state is the rule's and $c$, once for each coordinate. As $c$ is that of all coordinates,
    `l2o.Blocks` and `l2o.Sampled` do not apply: meta-train the rule by these on losses of like scale, and then wrap it.

    **Arguments:**

    - `optimizer`: a rule on the vector of all coordinates, such as an LSTM; rescale the parts of a `Partitioned` one.
    - `rms`: root mean square of the first gradient's coordinates, as the rule is to see it.

    **Raises:** `ValueError` for another kind of optimizer, and for an `rms` that is not positive and finite.
    """

    sees_scale = False

    optimizer: AbstractFlat
    rms: float = eqx.field(static=True)

    def __init__(self, optimizer: AbstractLearnedOptimizer, rms: float):
        if not isinstance(optimizer, AbstractFlat):
            raise ValueError(
                "`Rescaled` takes a rule on the vector of all coordinates (`l2o.AbstractFlat`), got a "
                f"{type(optimizer).__name__}. Rescale the parts of a `Partitioned`, and what a `Guarded` guards."
            )
        self.optimizer = optimizer
        self.rms = positive("rms", rms)

    def _check_state(self, state, mesh):
        super()._check_state(state, mesh)
        if mesh is None:  # where it warns of its horizon; on a mesh its state is divided as this one's is
            self.optimizer._check_state(state[0], mesh)

    def to_spec(self):
        return {"architecture": "rescaled", "arguments": {"optimizer": self.optimizer.to_spec(), "rms": self.rms}}

    def init_coordinates(self, num) -> RescaledState:
        return self.optimizer.init_coordinates(num), jnp.zeros(num)

    def update_coordinates(self, gradients, state: RescaledState, params=None):
        inner, factor = state
        found = scale.rms(gradients)
        known = (found > 0) & jnp.isfinite(found)
        factor = jnp.where((factor == 0) & known, self.rms / found, factor)
        scaled = jnp.where(factor == 0, gradients, factor.astype(gradients.dtype) * gradients)
        updates, inner = self.optimizer.update_coordinates(scaled, inner, params)
        return updates, (inner, factor)


def from_spec(arguments: Mapping[str, Any], build: Callable[..., AbstractFlat]) -> Rescaled:
    """The wrapper that `to_spec` told of; `build(architecture, arguments)` makes what is in it."""
    return Rescaled(build(**arguments["optimizer"]), arguments["rms"])
