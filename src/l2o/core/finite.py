"""Norms, differences and means that neither overflow nor underflow as long as their result is a number, on pytrees."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number in `tree` is finite."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.ones((), bool)


def norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm: finite if all numbers are (at most the largest float), whatever their scale and dtype."""
    largest = _largest(tree)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = [jnp.sum((part / scale.astype(part.dtype)) ** 2) for part in _parts(tree)]
    found = scale * jnp.sqrt(sum(squares, jnp.zeros((), scale.dtype)))
    return jnp.where(jnp.isfinite(largest), jnp.minimum(found, jnp.finfo(found.dtype).max), found).astype(scale.dtype)


def distance(target: PyTree, params: PyTree) -> Float[Array, ""]:
    """By how much the coordinate that differs most does; 0 only if target - params is zero."""
    return _largest(jax.tree.map(lambda t, p: t - p, target, params))


def way(target: PyTree, params: PyTree) -> PyTree:
    """The update from params to target, in the params' dtype and finite: where it would overflow, as far as one step leads."""

    def subtract(t, p):
        if jnp.iscomplexobj(p):
            return jax.lax.complex(subtract(t.real, p.real), subtract(t.imag, p.imag))
        most = jnp.finfo(p.dtype).max
        return jnp.clip(t - p, -most, most)

    return jax.tree.map(subtract, target, params)


def moved(mean: Float[Array, ""], number: Float[Array, ""], weight) -> Float[Array, ""]:
    """(1 - weight) mean + weight number. A mean of infinity is one of nothing yet; a number that is not finite is left out."""
    # Halves: the difference of two large numbers of opposite sign overflows.
    mixed = mean + 2 * weight * (number / 2 - mean / 2)
    return jnp.where(jnp.isfinite(number), jnp.where(jnp.isinf(mean), number, mixed), mean)


def _parts(tree):
    """Real and imaginary parts, in single precision or better."""
    parts = []
    for leaf in jax.tree.leaves(tree):
        for part in (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,):
            parts.append(jnp.asarray(part, jnp.promote_types(jnp.result_type(part), jnp.float32)))
    return parts


def _largest(tree):
    most = [jnp.max(jnp.abs(part), initial=0.0).astype(float) for part in _parts(tree)]
    return jnp.max(jnp.stack(most)) if most else jnp.zeros((), float)
