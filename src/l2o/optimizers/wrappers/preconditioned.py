"""A rate for each coordinate: for problems whose parameters are not alike, such as an amplitude beside a frequency."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from l2o.core import coordinates
from l2o.core.checks import kind, shown
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.optimizers.momentum import Momentum


class Preconditioned(AbstractLearnedOptimizer):
    r"""The updates of `optimizer`, each coordinate's multiplied by a factor of its own.

    $$[v_t, h_{t+1}] = m(\nabla_t, h_t; \varphi), \qquad u_t = e^{s} \odot v_t$$

    It is a diagonal preconditioner that is not estimated anew in every run but learned, over the problems of a family whose
    parameters mean the same in all of them: the first is an amplitude, the second a frequency. The logarithms $s$ are
    meta-parameters. They are arrays in the shapes of the params' leaves, so the rule is for params of these shapes alone.

    ```python
    rule = l2o.Preconditioned(l2o.Momentum(40, rate=0.1), {"amplitude": jnp.ones(()), "frequency": jnp.array(10.0)})
    ```

    **Arguments:**

    - `optimizer`: any rule that does not ask for the loss.
    - `factors`: positive numbers in the structure of the params.

    **Raises:** `TypeError` for what is no rule; `ValueError` for factors that are not positive and finite, or a rule that asks
    for the loss or whose answer is elsewhere than at the params; from `init` and `update` for params of other shapes.
    """

    optimizer: AbstractLearnedOptimizer
    log_factors: list[Float[Array, "..."]]  # of each leaf that has coordinates

    def __init__(self, optimizer: AbstractLearnedOptimizer, factors: PyTree):
        kind("optimizer", optimizer, AbstractLearnedOptimizer, "a learned optimizer, such as `l2o.Momentum(100)`")
        if optimizer.uses_value or optimizer.has_eval_params:
            name = type(optimizer).__name__
            raise ValueError(
                f"A {name} looks at the loss or the params itself. Put it outside: {name}(Preconditioned(...))."
            )
        leaves = [np.asarray(x, float) for x in jax.tree.leaves(factors) if coordinates.num_coordinates(x)]
        if not leaves or not all(np.isfinite(x).all() and (x > 0).all() for x in leaves):
            raise ValueError(
                f"`factors` must be positive and finite numbers in the shapes of the params, got {shown(factors)}."
            )
        self.optimizer = optimizer
        self.log_factors = [jnp.asarray(np.log(x), jnp.float32) for x in leaves]

    def around(self, optimizer: AbstractLearnedOptimizer) -> "Preconditioned":
        """The same factors, of another rule's updates."""
        return eqx.tree_at(lambda self: self.optimizer, self, optimizer)

    def to_spec(self):
        shapes = [list(s.shape) for s in self.log_factors]
        return {
            "architecture": "preconditioned",
            "arguments": {"optimizer": self.optimizer.to_spec(), "shapes": shapes},
        }

    def formula(self) -> str:
        """The rule with its numbers, in plain text.

        **Raises:** `ValueError` if what is inside is no `Momentum`.
        """
        lines = [
            _formula_of(self.optimizer).formula(),
            "",
            "Each parameter's update is then multiplied by",
            "",
            *self._listed(),
        ]
        return "\n".join(lines)

    def optax_code(self) -> str:
        """Python that makes the rule as `optimizer`, with optax and JAX alone.

        **Raises:** as `formula`.
        """
        code = _formula_of(self.optimizer).optax_code().splitlines()
        imports = ["import jax", "import jax.numpy as jnp", "import optax"]
        return "\n".join([*imports, *(line for line in code if line not in imports), *self._code(), ""])

    def _code(self):
        yield from ("", "# In the order of the params' leaves.", "factors = [", *self._listed(","), "]")
        yield from ("", "", "def multiplied(updates, params=None):")
        yield "    leaves, structure = jax.tree.flatten(updates)"
        yield "    scaled = [jnp.asarray(f, u.dtype) * u for f, u in zip(factors, leaves, strict=True)]"
        yield "    return jax.tree.unflatten(structure, scaled)"
        yield from ("", "", "optimizer = optax.chain(optimizer, optax.stateless(multiplied))")

    def _listed(self, end=""):
        """A line for each leaf."""
        nine = np.vectorize(lambda x: float(f"{x:.9g}"), otypes=[float])  # digits, which tell single precision apart
        return [f"    {nine(np.exp(np.asarray(s, float))).tolist()}{end}" for s in self.log_factors]

    def init(self, params):
        coordinates.check(params)
        self._check([x for x in jax.tree.leaves(params) if coordinates.num_coordinates(x)])
        return self.optimizer.init(params)

    def update(self, updates, state, params=None, **extra: Any):
        updates, state = self.optimizer.update(updates, state, params, **extra)
        found, _, rebuild = coordinates.align(updates, None)
        self._check(found)
        return rebuild([jnp.exp(s).astype(_real(u)) * u for s, u in zip(self.log_factors, found, strict=True)]), state

    def _check(self, leaves):
        found, expected = [jnp.shape(x) for x in leaves], [s.shape for s in self.log_factors]
        if found != expected:
            raise ValueError(
                f"This rule has a factor for each coordinate of params of the shapes {expected}, and these have {found}. For "
                "other params take what is inside of it, `rule.optimizer`."
            )


def from_spec(arguments: Mapping[str, Any], build: Callable[..., AbstractLearnedOptimizer]) -> Preconditioned:
    """The wrapper that `to_spec` told of; `build(architecture, arguments)` makes what is in it."""
    return Preconditioned(build(**arguments["optimizer"]), [np.ones(shape) for shape in arguments["shapes"]])


def is_formula(rule: Any) -> bool:
    """Whether a rule is a formula of a few constants, which `formula` and `optax_code` print."""
    return isinstance(rule.optimizer if isinstance(rule, Preconditioned) else rule, Momentum)


def _formula_of(rule):
    if not isinstance(rule, Momentum):
        raise ValueError(f"A {type(rule).__name__} is no formula of a few constants.")
    return rule


def _real(x):
    return jnp.finfo(x.dtype).dtype
