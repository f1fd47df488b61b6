"""The update rule: optax's protocol, with meta-parameters as array leaves."""

import abc
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

OptState: TypeAlias = PyTree


class AbstractLearnedOptimizer(eqx.Module):
    r"""An update rule $[u_t, h_{t+1}] = m(\nabla_t, h_t; \varphi)$ in optax's protocol.

    Array leaves are the meta-parameters $\varphi$; everything else is a static field. Because `init` and `update` are
    optax's, a learned optimizer goes wherever an `optax.GradientTransformation` goes: `optax.chain`, `optax.masked`, ....
    The updates returned are *added* to the params.
    """

    # True: `unroll` passes `value`, `grad` and `value_fn` to `update`, as it does to optax's.
    uses_value: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, params: PyTree) -> OptState:
        """The state $h_0$ for these params."""

    @abc.abstractmethod
    def update(
        self, updates: PyTree, state: OptState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, OptState]:
        """Maps gradients (`updates`) to updates of the same structure, shapes and dtypes."""

    def as_optax(self) -> optax.GradientTransformationExtraArgs:
        """The same rule as optax's own pair of functions, for code that asks for one.

        `jax.jit(optimizer.as_optax().update)` works where `jax.jit(optimizer.update)` cannot (a bound method of a module
        with arrays has no hash); and optax's wrappers pass `value` and `value_fn` on to it, as `Guarded` wants.
        """

        def init(params):
            return self.init(params)

        def update(updates, state, params=None, **extra):
            return self.update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(init, update)


class AbstractFlat(AbstractLearnedOptimizer):
    r"""A rule on the vector of all coordinates: the leaves of the params are concatenated before it, and split after it.

    So the rule's network runs as a few large matrix products rather than many small ones. **Coordinates are the last axis**
    of what the state holds for each of them.
    """

    @abc.abstractmethod
    def init_coordinates(self, num: int) -> OptState:
        """State of `num` coordinates."""

    @abc.abstractmethod
    def update_coordinates(
        self, gradients: Float[Array, " num"], state: OptState, params: Float[Array, " num"] | None
    ) -> tuple[Float[Array, " num"], OptState]:
        """One step for `num` coordinates."""

    def init(self, params):
        return self.init_coordinates(sum(leaf.size for leaf in jax.tree.leaves(params)))

    def update(self, updates, state, params=None, **extra):
        gradients, unravel = ravel_pytree(updates)
        flat_params = None if params is None else ravel_pytree(params)[0]
        flat, state = self.update_coordinates(gradients, state, flat_params)
        return unravel(flat.astype(gradients.dtype)), state


class AbstractCoordinatewise(AbstractFlat):
    r"""A rule that treats every coordinate of $\theta$ alike and apart from the others (Andrychowicz et al. 2016, 2.1).

    Every leaf of the state has shape [..., num]: that is what lets the meta-gradient be computed for blocks or samples of
    coordinates (`l2o.Blocks`, `l2o.Sampled`). A rule whose coordinates see each other is an `AbstractFlat`.
    """

    def run_coordinates(
        self, gradients: PyTree, state: OptState, params: Float[Array, " num"]
    ) -> tuple[Float[Array, "length num"], OptState]:
        """The updates of all steps, and the final state, from gradients [length, ...] that are known beforehand.

        Meta-gradients are taken through this. Equal to `length` times `update_coordinates`, its updates added to the params;
        override it where you have something faster, or a faster derivative.
        """

        # Recomputing one step in the backward pass is cheaper than storing all it computed.
        @jax.checkpoint
        def step(carry, gradient):
            params, state = carry
            updates, state = self.update_coordinates(gradient, state, params)
            return (params + updates.astype(params.dtype), state), updates

        (_, state), updates = jax.lax.scan(step, (params, state), gradients)
        return updates, state


Optimizer: TypeAlias = AbstractLearnedOptimizer | optax.GradientTransformation


def with_extra_args(optimizer: Optimizer) -> AbstractLearnedOptimizer | optax.GradientTransformationExtraArgs:
    """The optimizer, with an `update` that accepts (and may ignore) optax's extra arguments."""
    if isinstance(optimizer, AbstractLearnedOptimizer):
        return optimizer
    return optax.with_extra_args_support(optimizer)
