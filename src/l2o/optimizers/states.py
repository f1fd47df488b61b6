r"""An optimizer's state on disk, so that a run interrupted in one framework goes on in the other.

A safetensors file. For every parameter group $i$ (JAX has one, number 0) and every leaf of the optimizer's state it holds an
array named by $i$ and the leaf's path (`0[1][0]`), [..., num], coordinates last, in the order of `jax.tree.leaves(params)` and of
a PyTorch group's `params`. (Of a state that has the params' structure, as `l2o.Momentum`'s, trees are such vectors in the file,
`ByLeaf`, and what counts the steps are single numbers.) The header names, for each group, the architecture, its arguments, and
the parameters' shapes.
`l2o.torch.save_state` and `load_state` are the PyTorch side. The parameters themselves are not in the file.
"""

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.io import weights
from l2o.io.door import shown
from l2o.io.files import check_writable, write_whole
from l2o.optimizers import pretrained


def save(path: str | Path, optimizer: AbstractLearnedOptimizer, state: PyTree, params: PyTree) -> None:
    """Writes `state`, of an optimizer of these `params`, whole or not at all.

    **Raises:** `ValueError` if the optimizer is not of an architecture of this package; `OSError` if `path` cannot be
    written.
    """
    import safetensors.numpy

    group = {**_description(optimizer, params), "options": {}}
    leaves = jax.tree_util.tree_leaves_with_path(_joined(state))
    # A copy in C order: safetensors writes an array's memory as it lies.
    arrays = {f"0{jax.tree_util.keystr(key)}": np.array(leaf, order="C") for key, leaf in leaves}
    path = Path(path)
    check_writable(path.absolute().parent)
    write_whole(
        path, safetensors.numpy.save(arrays, metadata={"format": weights.STATE_FORMAT, "groups": json.dumps([group])})
    )


def load(path: str | Path, optimizer: AbstractLearnedOptimizer, params: PyTree, *, group: int = 0) -> PyTree:
    """The state that `save`, or `l2o.torch.save_state`, wrote, for an optimizer of these `params`.

    **Arguments:** `group`: which parameter group of a PyTorch optimizer.

    **Raises:** `ValueError` if the file is not whole or not of a state, has no such group, or is of another architecture,
    other arguments or other shapes of parameters.
    """
    arrays, groups = weights.read_state(Path(path))
    if not 0 <= group < len(groups):
        raise ValueError(f"{path} holds {len(groups)} parameter groups, and so no group {group}.")
    for what, value in _description(optimizer, params).items():
        found = getattr(groups[group], what)
        if found != value:
            raise ValueError(f"Group {group} in {path} has {what} {shown(found)}, the optimizer and params {value}.")

    def fill(key, leaf):
        name = f"{group}{jax.tree_util.keystr(key)}"
        if leaf.shape == () and name in arrays and arrays[name].ndim == 1:
            raise ValueError(
                f"The parameters in {path} have taken different numbers of steps, as some had no gradients, and in JAX there is "
                f"one number for all of them (leaf {name}: {shown(arrays[name].tolist())})."
            )
        if name not in arrays or arrays[name].shape != leaf.shape:
            found = arrays[name].shape if name in arrays else "nothing"
            raise ValueError(f"The state in {path} is of another optimizer (leaf {name}: {found} vs {leaf.shape}).")
        if jnp.issubdtype(arrays[name].dtype, jnp.inexact) != jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"The state in {path} is of another optimizer (leaf {name}: {arrays[name].dtype} vs {leaf.dtype})."
            )
        return jnp.asarray(arrays[name], leaf.dtype)

    like = jax.eval_shape(optimizer.init, params)
    found = jax.tree_util.tree_map_with_path(fill, jax.eval_shape(_joined, like))
    split = lambda x, like: x.split(like) if isinstance(x, ByLeaf) else x
    return jax.tree.map(split, found, like, is_leaf=_is_by_leaf)


@runtime_checkable
class ByLeaf(Protocol):
    """A part of a state that has the params' structure, and says itself how it lies in a file, coordinate by coordinate."""

    def joined(self) -> Any:
        """With vectors of coordinates in the place of trees like the params."""

    def split(self, like: Any) -> Any:
        """The inverse of `joined`, of a state that was `like` that."""


def _is_by_leaf(x):
    return isinstance(x, ByLeaf)


def _joined(state):
    return jax.tree.map(lambda x: x.joined() if isinstance(x, ByLeaf) else x, state, is_leaf=_is_by_leaf)


def _description(optimizer, params):
    contents = pretrained.as_dict(optimizer)
    shapes = [list(leaf.shape) for leaf in jax.tree.leaves(params)]
    return {"architecture": contents["architecture"], "arguments": contents["arguments"], "shapes": shapes}
