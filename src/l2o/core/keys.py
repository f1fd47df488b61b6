"""PRNG keys, in whatever style they come, and which of them is drawn from for what: each of these tags is used here alone."""

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


# Of the key of an episode. Its first three give the task, the start and the minibatches, whatever the optimizer.
_TASK, _START, _BATCHES, _CHOICE, _JUDGED = range(5)
_SPLIT = 1  # of the key of a step
_DRAW = _TRIALS = 2**31  # of the key of the minibatches, and of that for tuning: far from any step
_CHECK = 1  # of the key of meta-training


def of_task(episode: Array) -> Array:
    """For drawing the task of an episode."""
    return jax.random.fold_in(episode, _TASK)


def of_start(episode: Array) -> Array:
    """For the params that an episode starts from."""
    return jax.random.fold_in(episode, _START)


def of_batches(episode: Array) -> Array:
    """For all minibatches of an episode."""
    return jax.random.fold_in(episode, _BATCHES)


def of_choice(episode: Array) -> Array:
    """For what else is drawn once in an episode, such as whose updates are followed."""
    return jax.random.fold_in(episode, _CHOICE)


def of_judged(episode: Array) -> Array:
    """For minibatches on which a run is judged after it."""
    return jax.random.fold_in(episode, _JUDGED)


def of_step(batches: Array, step: Any) -> Array:
    """For the minibatch of a step."""
    return jax.random.fold_in(batches, step)


def of_split(step: Array, split: str) -> Array:
    """For the batch on which the loss of a step is reported: that of its gradient, if both are on "train"."""
    return step if split == "train" else jax.random.fold_in(step, _SPLIT)


def of_draw(batches: Array, step: Any) -> Array:
    """For a sample of coordinates, of the truncation that starts with this step."""
    return jax.random.fold_in(jax.random.fold_in(batches, _DRAW), step)


def of_trials(tuning: Array) -> Array:
    """For the settings that a search tries."""
    return jax.random.fold_in(tuning, _TRIALS)


def of_check(training: Array) -> Array:
    """For tasks that are looked at before meta-training starts."""
    return jax.random.fold_in(training, _CHECK)


def of_item(key: Array, index: Any) -> Array:
    """For the item of this index, of several that share a key."""
    return jax.random.fold_in(key, index)
