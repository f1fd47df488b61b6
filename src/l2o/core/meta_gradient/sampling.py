"""A random sample of coordinates, the likelier the more the meta-loss sees of them."""

import jax
import jax.numpy as jnp


def draw(key, cotangents, count, uniform):
    """Systematic sample of `count` coordinates with probabilities from the cotangents' norms, and their weights."""
    num = cotangents.shape[-1]
    norms = jnp.linalg.norm(cotangents, axis=0)
    total = jnp.sum(norms)
    # Without any cotangent (nothing to differentiate) or with a non-finite one, the draw is uniform.
    norms = jnp.where((total > 0) & jnp.isfinite(total), norms / total, 1 / num)
    probability = (1 - uniform) * norms + uniform / num
    cumulative = jnp.cumsum(probability)
    points = (jnp.arange(count) + jax.random.uniform(key)) / count * cumulative[-1]
    index = jnp.clip(jnp.searchsorted(cumulative, points, side="right"), 0, num - 1)
    return index, (1 / (count * probability[index])).astype(cotangents.dtype)
