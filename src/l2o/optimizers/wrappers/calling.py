"""Rules called with what optax's extra arguments give them, and what they ask for and were not given."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from l2o.core.optimizer import Optimizer, with_extra_args


def with_types_of(like: PyTree, tree: PyTree) -> PyTree:
    """`tree` with the dtypes of `like`, none of them weak: a state that changes its types is compiled anew."""
    return jax.tree.map(lambda other, leaf: jnp.asarray(leaf, jnp.result_type(other)), like, tree)


def updated(rule: Optimizer, name: str, gradient, state, params, extra) -> tuple[PyTree, PyTree]:
    """The rule's update and state, in the dtypes of params and state."""
    try:
        updates, after = with_extra_args(rule).update(gradient, state, params, **extra)
    except TypeError as error:
        asked = re.search(r"missing \d+ required keyword-only arguments?: (.*)", str(error))
        lacking = [word for word in re.findall(r"'(\w+)'", asked[1]) if word not in extra] if asked else []
        if not lacking:
            raise
        given = {"value": "loss", "value_fn": "loss_of_this_batch"}
        call = ", ".join(f"{word}={given.get(word, '...')}" for word in {**given, **dict.fromkeys(lacking)})
        raise ValueError(
            f"The {name} asks for {' and '.join(f'`{word}`' for word in lacking)}, which `update` was not given. Call "
            f"`optimizer.update(gradient, state, params, {call})`, or guard with a rule that needs no more than the gradient, "
            "such as `optax.adam(1e-3)`."
        ) from error
    return with_types_of(params, updates), with_types_of(state, after)


def evaluating(value_fn: Callable[..., Any], extra: dict[str, Any]) -> Callable[[PyTree], Array]:
    """`value_fn` of the params alone; as in optax, its other arguments are found among those of `update`."""
    try:
        others = list(inspect.signature(value_fn).parameters)[1:]
    except ValueError:  # a callable that has no signature
        others = []
    arguments = {name: extra[name] for name in others if name in extra}
    return lambda params: real_number(value_fn(params, **arguments), "what `value_fn` returns")


def real_number(value: Any, name: str) -> Array:
    """`value`, if it is one real number.

    **Raises:** `ValueError` that calls it `name`.
    """
    value = jnp.asarray(value)
    if value.shape != () or jnp.iscomplexobj(value):
        raise ValueError(
            f"{name[0].upper() + name[1:]} must be the loss, one real number, got shape {value.shape} and dtype {value.dtype}. "
            "Take the mean of several, and the real part of a complex one."
        )
    return value
