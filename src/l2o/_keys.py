"""PRNG keys, in whatever style they come."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def typed(key: Any, name: str = "key") -> Array:
    """`key`, or an array of keys, in JAX's new style: `jax.random.key(0)` where `jax.random.PRNGKey(0)` was given.

    Both draw the same numbers, but the old style is an array of integers with one axis more, of which nothing can tell
    whether a row of it is one key or several numbers.

    **Raises:** `TypeError` for what is no key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    size = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape[0]
    if dtype == np.uint32 and np.shape(key)[-1:] == (size,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    found = f"an array of {dtype} of shape {np.shape(key)}" if dtype is not None else f"{type(key).__name__} {key!r}"
    raise TypeError(f"`{name}` must be a PRNG key, such as `jax.random.key(0)`, got {found}.")


def one(key: Any, name: str = "key") -> Array:
    """`typed` of a single key.

    **Raises:** `TypeError` for what is no key, or several.
    """
    key = typed(key, name)
    if key.shape != ():
        raise TypeError(
            f"`{name}` must be one PRNG key, such as `jax.random.key(0)`, got an array {key.shape} of keys."
        )
    return key
