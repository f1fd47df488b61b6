"""Params as one vector of real coordinates: which of their leaves have any, and in what order."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


def num_coordinates(tree: PyTree) -> int:
    """Real numbers that an optimizer may move: one for each of a floating leaf, two of a complex one, of others none."""
    return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def conjugate(tree: PyTree) -> PyTree:
    """Of `jax.grad`'s gradient of a real loss, the vector of the parts' derivatives: for complex leaves JAX has its conjugate."""
    return jax.tree.map(lambda x: jnp.conj(x) if jnp.iscomplexobj(x) else x, tree)


def check(params: PyTree) -> None:
    """Raises a `TypeError` for a leaf that is no array, and names it."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if _type(leaf) is None:
            raise TypeError(
                f"The params have a leaf that is no array: {_name(path)} is a {type(leaf).__name__}. Give the arrays only, "
                "e.g. `optimizer.init(equinox.filter(model, equinox.is_inexact_array))`."
            )


def join(leaves: Sequence[Any]) -> Float[Array, " num"]:
    """The coordinates of all leaves, one after the other; of a complex number the real part, then the imaginary.

    In the dtype that all leaves can be promoted to. That is PyTorch's order, too (`view_as_real`).
    """
    parts = []
    for leaf in leaves:
        if jnp.issubdtype(_dtype(leaf), jnp.complexfloating):
            parts.append(jnp.stack([jnp.real(leaf), jnp.imag(leaf)], axis=-1).ravel())
        elif jnp.issubdtype(_dtype(leaf), jnp.floating):
            parts.append(jnp.ravel(leaf))
    if not parts:
        return jnp.zeros(0)
    if len(parts) == 1:  # never the leaf itself: a state may hold on to what whoever gave it has donated
        return jnp.copy(parts[0])
    dtype = jnp.result_type(*(part.dtype for part in parts))
    return jnp.concatenate([part.astype(dtype) for part in parts])


def split(vector: Float[Array, " num"], leaves: Sequence[Any]) -> list[Array | None]:
    """The inverse of `join`: arrays of the shapes and dtypes of `leaves`, `None` for those without coordinates."""
    ends = np.cumsum([_size(leaf) for leaf in leaves])
    parts = jnp.split(vector, ends[:-1]) if len(leaves) else []
    return [_like(part, leaf) for part, leaf in zip(parts, leaves, strict=True)]


def flatten(tree: PyTree) -> tuple[Float[Array, " num"], Callable[[Float[Array, " num"]], PyTree]]:
    """The coordinates of a tree, and the function that makes such a tree of them."""
    leaves, treedef = jax.tree.flatten(tree)
    return join(leaves), lambda vector: jax.tree.unflatten(treedef, split(vector, leaves))


def positions(tree: PyTree) -> PyTree:
    """Where in `flatten(tree)` every leaf's coordinates are: a vector of integers in its place."""
    leaves, treedef = jax.tree.flatten(tree)
    sizes = [_size(leaf) for leaf in leaves]
    ends = np.cumsum(sizes)
    return jax.tree.unflatten(treedef, [np.arange(e - size, e) for e, size in zip(ends, sizes, strict=True)])


class Aligned(NamedTuple):
    """Gradients and params leaf by leaf, those with coordinates only."""

    gradients: list[Any]
    params: list[Any] | None
    rebuild: Callable[[list[Any]], PyTree]  # what was found for the gradients, in their structure


def align(updates: PyTree, params: PyTree | None) -> Aligned:
    """The leaves of gradients that a rule acts on, beside those of the params.

    Gradients that are `None` where the params have no coordinates (integers, functions) are passed over, and stay `None`.

    **Raises:** `TypeError` for a gradient that is no floating or complex array where the params are not either, `ValueError` if
    one is missing or of another shape.
    """
    none = lambda x: x is None
    found, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=none)
    leaves = [leaf for _, leaf in found]
    matched = None
    if params is not None:
        matched, params_treedef = jax.tree.flatten(params, is_leaf=none)
        if params_treedef != treedef:  # other containers of the same leaves
            matched = [leaf for leaf in matched if _size(leaf, missing=-1) >= 0]
            if len(matched) != sum(leaf is not None for leaf in leaves):
                raise ValueError(f"Gradients and params are not alike: {treedef} vs {params_treedef}.")
            others = iter(matched)
            matched = [None if leaf is None else next(others) for leaf in leaves]
    acted_on, gradients, ours = [], [], []
    for i, (path, gradient) in enumerate(found):
        param: Any = None if matched is None else matched[i]
        if gradient is None:
            if _size(param):
                raise ValueError(
                    f"The gradient of {_name(path)} is None, but the params have {_size(param)} numbers there. Give zeros, or "
                    "leave the leaf out by `optax.masked` or `equinox.partition`."
                )
            continue
        gradient = _promoted(gradient, param, path)
        if matched is not None and (np.shape(param), _size(param)) != (np.shape(gradient), _size(gradient)):
            raise ValueError(
                f"The gradient of {_name(path)} is {_type(gradient)}, but the params have "
                f"{_type(param) or type(param).__name__} there."
            )
        acted_on.append(i)
        gradients.append(gradient)
        ours.append(param)

    def rebuild(results):
        everything = dict(zip(acted_on, results, strict=True))
        return jax.tree.unflatten(treedef, [everything.get(i) for i in range(len(leaves))])

    return Aligned(gradients, None if matched is None else ours, rebuild)


def _promoted(gradient, param, path):
    """The gradient in a dtype that has coordinates: a real one of complex params in theirs, an integer one too."""
    dtype, wanted = _dtype(gradient), _dtype(param)
    real = jnp.issubdtype(dtype, jnp.floating)
    if jnp.issubdtype(dtype, jnp.complexfloating) or (real and not jnp.issubdtype(wanted, jnp.complexfloating)):
        return gradient
    if jnp.issubdtype(wanted, jnp.inexact) and (real or jnp.issubdtype(dtype, jnp.integer)):
        return jnp.asarray(gradient, wanted)
    kind = f"a {type(gradient).__name__}" if _type(gradient) is None else str(dtype)
    raise TypeError(
        f"A learned optimizer moves floating and complex params, but the gradient of {_name(path)} is {kind}. Leave such "
        "leaves out by `optax.masked` or `equinox.partition`."
    )


def _type(leaf):
    """JAX's type of an array, number or `jax.ShapeDtypeStruct`, or None."""
    try:
        return jax.typeof(leaf)
    except TypeError:
        return None


def _dtype(leaf):
    found = _type(leaf)
    return jax.dtypes.float0 if found is None else found.dtype


def _size(leaf, missing=0):
    found = _type(leaf)
    if found is None or not jnp.issubdtype(found.dtype, jnp.inexact):
        return missing
    return found.size * (2 if jnp.issubdtype(found.dtype, jnp.complexfloating) else 1)


def _like(part, leaf):
    shape, dtype = np.shape(leaf), _dtype(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return None
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return part.reshape(shape).astype(dtype)
    pairs = part.reshape(*shape, 2).astype(jnp.finfo(dtype).dtype)
    return jax.lax.complex(pairs[..., 0], pairs[..., 1])


def _name(path):
    return jax.tree_util.keystr(path) or "the params"
