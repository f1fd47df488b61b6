r"""What a learned rule does after the steps that it was meta-trained for.

A rule that was meta-trained on runs of $T$ steps knows nothing of what comes after. Some go on improving, some make a run worse
from there on. So `l2o.load` wraps what it loads: by default the params are held where the rule left them at step $T$.
"""

import warnings
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from l2o.core.checks import count
from l2o.core.meshes import mesh_of
from l2o.core.optimizer import AbstractCoordinatewise, AbstractFlat, AbstractLearnedOptimizer, OptState
from l2o.io.horizon import check_how, passed

T = TypeVar("T")

# The rule's state; steps taken, as a float; and of "fallback" the averages m, v and s. Each [num], s. `AbstractCoordinatewise`.
BeyondState: TypeAlias = tuple[OptState, Float[Array, " num"], tuple[Float[Array, " num"], ...]]

# Of "fallback": Adam's decays, the second one shorter than usual, as it has only some tens of steps to settle.
_B1, _B2 = 0.9, 0.99


class _AbstractBeyond(AbstractLearnedOptimizer):
    """What all kinds share: the fields, and whatever is the rule's own."""

    optimizer: AbstractLearnedOptimizer
    horizon: int = eqx.field(static=True)
    how: str = eqx.field(static=True, default="hold")
    name: str | None = eqx.field(static=True, default=None)  # as told in the warning; None: none is given

    def __check_init__(self):
        count("horizon", self.horizon)
        check_how(self.how)

    def __getattr__(self, name):
        # The rule's own constants, such as `num_units`, are read through the wrapper.
        if name.startswith("__") or name == "optimizer":
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def eval_params(self, opt_state, params):
        return self.optimizer.eval_params(opt_state[0], params)

    @property
    def has_eval_params(self):
        return self.optimizer.has_eval_params

    def silenced(self, length):
        quiet = type(self)(self.optimizer, self.horizon, self.how)
        if self.name is None or length is None or length <= self.horizon:
            return quiet, None
        return quiet, passed(self.name, self.horizon, self.how)

    def _after(self, proposed, step):
        """The updates after the horizon under "hold" and "anneal"."""
        if self.how == "hold":
            return jnp.zeros_like(proposed)
        end = float(self.horizon)
        factor = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(step / end - 1, 0, 1)))
        # Not a product where the factor is 0: what a rule proposes so far out need not be finite.
        return jnp.where(step < 2 * end, factor.astype(proposed.dtype) * proposed, 0)

    def _counted(self, step):
        # In single precision, which is exact up to 2²⁴; "hold" and "anneal" need not know how far beyond a run is.
        return step + 1 if self.how == "fallback" else jnp.minimum(step + 1, 2 * float(self.horizon))


class _AbstractFlatBeyond(_AbstractBeyond, AbstractFlat):
    """Of a rule on the vector of all coordinates."""

    optimizer: AbstractFlat  # pyright: ignore[reportIncompatibleVariableOverride] (nobody writes to it)

    def init_coordinates(self, num) -> BeyondState:
        averages = tuple(jnp.zeros(num) for _ in range(3)) if self.how == "fallback" else ()
        return self.optimizer.init_coordinates(num), jnp.zeros(num), averages

    def update_coordinates(self, gradients, state: BeyondState, params=None):
        inner, step, averages = state
        proposed, inner = self.optimizer.update_coordinates(gradients, inner, params)
        if self.how == "fallback":
            after, averages = self._fallback(gradients, proposed, step, averages)
        else:
            after = self._after(proposed, step)
        updates = jnp.where(step < self.horizon, proposed, after.astype(proposed.dtype))
        return updates, (inner, self._counted(step), averages)

    def _fallback(self, gradients, proposed, step, averages):
        m, v, s = averages
        gradient, length = gradients.astype(m.dtype), proposed.astype(s.dtype) ** 2
        taken = step + 1
        seen = jnp.isfinite(gradient)
        m = jnp.where(seen, _B1 * m + (1 - _B1) * gradient, m)
        v = jnp.where(seen, _B2 * v + (1 - _B2) * gradient**2, v)
        window = jnp.minimum(taken, max(1.0, self.horizon / 10))
        learned = (step < self.horizon) & jnp.isfinite(length)
        s = jnp.where(learned, s + (length - s) / window, s)
        root = jnp.sqrt(v / (1 - _B2**taken))
        direction = jnp.where(root > 0, m / (1 - _B1**taken) / jnp.where(root > 0, root, 1), 0)
        after = -jnp.sqrt(s) * (self.horizon / taken) * direction
        return jnp.where(seen, after, 0), (m, v, s)

    def _check_state(self, state, mesh):
        # A place that `update` passes, and a replay of it does not. On a mesh a look at one number would cost a message a step.
        super()._check_state(state, mesh)
        if self.name is not None and mesh is None:
            _tell(state[1], self.horizon, self.name, self.how)


class Beyond(_AbstractFlatBeyond):
    r"""`optimizer` up to step `horizon`, $T$; from there on what `how` says. Made by `l2o.beyond`.

    With $u_t$ what the rule proposes at step $t = 1, 2, \dots$, the update is $u_t$ for $t \le T$, and then

    - "hold": zero. The params stay where they are at step $T$, so that they can never get worse than there.
    - "anneal": $\tfrac12 (1 + \cos \pi (t - 1 - T) / T)\, u_t$ up to step $2T$, then zero. The noise of the last steps settles,
        as under a cosine decay of a learning rate. Nothing keeps a rule that is on its way uphill from going on for a while.
    - "fallback": $-\sqrt{s}\, \frac{T}{t}\, \hat m_t / \sqrt{\hat v_t}$, Adam (Kingma & Ba 2015, algorithm 1, with $\beta_2$ =
        0.99) in the place of the rule. Its rate is for each coordinate the root mean square $\sqrt{s}$ of the rule's own updates
        in about the last tenth of its steps, and falls as $1/t$.

    Only "hold" is a guarantee, with a margin of 0, for any loss. For the others cards say what was measured; `l2o.Guarded` bounds
    what they can do, as it sees the loss. State: the rule's and 1 number for each coordinate, with "fallback" 4.
    """


class CoordinatewiseBeyond(_AbstractFlatBeyond, AbstractCoordinatewise):
    """`Beyond` of a coordinatewise rule, which is one itself."""


class WholeBeyond(_AbstractBeyond):
    """`Beyond` of any other rule, of which it knows the updates alone: "hold" or "anneal". State: the rule's and 1 number."""

    @property
    def uses_value(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] (its rule decides)
        """Whether the rule is given the loss."""
        return self.optimizer.uses_value

    def init(self, params):
        return self.optimizer.init(params), jnp.zeros(())

    def update(self, updates, state, params=None, **extra: Any):
        inner, step = state
        if self.name is not None and mesh_of(jax.tree.leaves(updates)) is None:
            _tell(step[None], self.horizon, self.name, self.how, stacklevel=5)
        proposed, inner = self.optimizer.update(updates, inner, params, **extra)
        found = jax.tree.map(
            lambda u: jnp.where(step < self.horizon, u, self._after(u, step).astype(u.dtype)), proposed
        )
        return found, (inner, self._counted(step))


def beyond(optimizer: AbstractLearnedOptimizer, horizon: int, how: str = "hold", *, name: str | None = None):
    """`optimizer` that does what `how` says after `horizon` steps: "hold", "anneal" or "fallback" (see `l2o.Beyond`).

    ```python
    optimizer = l2o.beyond(my_rule, 200)
    ```

    The parts of an `l2o.Partitioned` are wrapped each for itself. What is wrapped already is wrapped anew, not twice. A rule that
    is none on the vector of all coordinates (`l2o.AbstractFlat`), such as `l2o.Guarded` or one of your own, is held or annealed.

    **Arguments:** `name`: a run that passes the horizon warns once (`UserWarning`), and calls the optimizer so. Default: it does
    not warn, nor where params are divided on explicit axes of a mesh.

    **Raises:** `ValueError` for another `how`, a `horizon` that is no positive whole number, and for "fallback" with a rule that
    is neither an `l2o.AbstractFlat` nor a `Partitioned` of such.
    """
    optimizer = bare(optimizer)
    if (rules := optimizer.group_rules()) is not None:
        return optimizer.with_groups({part: beyond(rule, horizon, how, name=name) for part, rule in rules.items()})
    count("horizon", horizon)
    check_how(how)
    if isinstance(optimizer, AbstractFlat):
        kind = CoordinatewiseBeyond if isinstance(optimizer, AbstractCoordinatewise) else Beyond
        return kind(optimizer, horizon, how, name)
    if how == "fallback":
        raise ValueError(
            "beyond='fallback' goes on with the last steps of each coordinate, which are known of a rule on the vector of all "
            f"coordinates (`l2o.AbstractFlat`) or a `Partitioned` of such, got a {type(optimizer).__name__}. Pass 'hold', "
            "'anneal' or None."
        )
    return WholeBeyond(optimizer, horizon, how, name)


def bare(optimizer: T) -> T:
    """The rule itself, without what `beyond` put around it, or around its parts: to meta-train it on, or to see it fail."""
    return jax.tree.map(lambda x: x.optimizer if _is_beyond(x) else x, optimizer, is_leaf=_is_beyond)


def horizon_of(optimizer: Any) -> int | None:
    """The horizon that `beyond` gave it, the least of its parts'; None without one."""
    found = [x.horizon for x in jax.tree.leaves(optimizer, is_leaf=_is_beyond) if _is_beyond(x)]
    return min(found, default=None)


def _is_beyond(x):
    return isinstance(x, _AbstractBeyond)


def _tell(steps, horizon, name, how, stacklevel=6):
    """Warns at the first step beyond, inside `jit` too."""
    if not steps.size:
        return
    step, message = steps[0], passed(name, horizon, how)
    if not isinstance(step, Tracer):
        if float(step) <= horizon:
            _tell_once(float(step) == horizon, message, stacklevel)
        return

    def tell(now):
        _tell_once(bool(now), message, stacklevel=3)

    # One flag for all that `vmap` maps over: with one for each, `cond` would run both of its branches. The effect itself stays
    # outside, as JAX before 0.9 drops those of a function with a rule for `vmap`.
    @jax.custom_batching.custom_vmap
    def any_of(flag):
        return flag

    @any_of.def_vmap
    def _any_of_all(axis_size, in_batched, flag):
        return any_of(jnp.any(flag)), False

    now, before = any_of(step == horizon), any_of(step == horizon - 1)
    jax.lax.cond(now | before, lambda: jax.debug.callback(tell, now), lambda: None)


# Warnings given, each until a run comes to the step before. All parts of a `Partitioned` take the same step, and gradients that
# are accumulated (`optax.MultiSteps`) the same one again and again.
_TOLD: set[str] = set()


def _tell_once(now, message, stacklevel):
    if not now:
        _TOLD.discard(message)
    elif message not in _TOLD:
        _TOLD.add(message)
        warnings.warn(message, UserWarning, stacklevel=stacklevel)
