"""Random starts: every parameter's distribution, and one draw for all of them."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree


class Normal(NamedTuple):
    """An array of independent normal entries."""

    shape: tuple[int, ...]
    std: float = 0.0
    mean: float = 0.0


def draw(key: PRNGKeyArray, start: PyTree) -> PyTree:
    """Params in the structure of `start`, a pytree of `Normal`.

    All come from one call of `jax.random.normal`: a call for every leaf is what compiling a small network is spent on.
    """
    leaves, treedef = jax.tree.flatten(start, is_leaf=_is_normal)
    noise = jax.random.normal(key, (sum(math.prod(n.shape) for n in leaves if n.std),))
    arrays: list[Any] = []
    for normal in leaves:
        if normal.std:
            taken, noise = jnp.split(noise, [math.prod(normal.shape)])
            arrays.append(normal.mean + normal.std * taken.reshape(normal.shape))
        else:
            arrays.append(jnp.full(normal.shape, normal.mean))
    return jax.tree.unflatten(treedef, arrays)


def _is_normal(x):
    return isinstance(x, Normal)
