"""Params divided among devices on explicit axes of a mesh, whose types say how (`jax.typeof(x).sharding`).

On such axes JAX refuses to concatenate leaves that are divided differently. Where every device can go about its own shards
they need not be (`per_shard`); else XLA is asked to see to it (`by_xla`), as it does on axes of type Auto.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree


def mesh_of(leaves: Sequence[Any]) -> Any | None:
    """The mesh that some of the leaves are divided on along explicit axes; `None` if there is none.

    With its devices where the leaves are arrays, without (an `AbstractMesh`) where they are being traced.

    **Raises:** `ValueError` if there are several.
    """
    meshes, found = [], None
    for leaf in leaves:
        sharding = _sharding(leaf)
        if sharding is not None and _axes(sharding.spec) & set(sharding.mesh.explicit_axes):
            meshes.append(sharding.mesh)
            found = sharding.mesh if isinstance(leaf, Tracer) else leaf.sharding.mesh
    if any(mesh != meshes[0] for mesh in meshes):
        raise ValueError(
            f"The params are divided on different meshes: {', '.join(str(m) for m in dict.fromkeys(meshes))}. A learned "
            "optimizer takes those of one; use `l2o.Partitioned` or `optax.partition` for those of several."
        )
    return found


def spec_of(leaf: Any) -> PartitionSpec:
    """How a leaf is divided on explicit axes."""
    sharding = _sharding(leaf)
    return PartitionSpec() if sharding is None else sharding.spec


def shard_shape(leaf: Any, mesh: Any) -> tuple[int, ...]:
    """The shape of a device's part of a leaf."""
    shape = jax.typeof(leaf).shape
    spec = tuple(spec_of(leaf)) + (None,) * len(shape)
    return tuple(
        n // math.prod(mesh.shape[axis] for axis in _names(names)) for n, names in zip(shape, spec, strict=False)
    )


def state_specs(like: PyTree, mesh: Any, num: int) -> PyTree[PartitionSpec]:
    """For a state of `num` coordinates, the last axis divided among as many devices as it can be evenly.

    Leaves that are not so long on it are not divided.
    """
    axes, count = [], 1
    for axis in mesh.explicit_axes:
        if num % (count * mesh.shape[axis]) == 0:
            axes.append(axis)
            count *= mesh.shape[axis]
    return _on_last_axis(like, num, tuple(axes))


def shard_specs(like: PyTree, mesh: Any) -> PyTree[PartitionSpec]:
    """For a state that every device has its own part of, whose leaves `like` are."""
    return _on_last_axis(like, None, tuple(mesh.explicit_axes))


def is_per_shard(state: PyTree, mesh: Any | None) -> bool:
    """Whether a state is divided by `shard_specs`; without a mesh, whether it is not divided on explicit axes."""
    if mesh is None:
        return mesh_of(jax.tree.leaves(state)) is None
    specs = shard_specs(state, mesh)
    return all(jax.tree.leaves(jax.tree.map(lambda leaf, spec: spec_of(leaf) == spec, state, specs)))


def per_shard(function: Callable[..., Any], mesh: Any, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` as run by every device on its own parts of the arguments.

    What is not divided is worked out by all of them alike.
    """
    # Without the check of what is replicated: that a rule treats every coordinate by itself is more than JAX can see.
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=set(mesh.explicit_axes),
        check_vma=False,
    )


def by_xla(function: Callable[..., Any], mesh: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` with the work divided by XLA, and results divided as `out_specs` say."""
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), out_specs, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    return _auto_axes()(function, axes=tuple(mesh.explicit_axes), out_sharding=shardings)


def like(leaf: Any, wanted: Any, mesh: Any) -> Any:
    """A leaf divided as another is."""
    if _sharding(leaf) is None or spec_of(leaf) == spec_of(wanted):
        return leaf
    return by_xla(lambda x: x, mesh, spec_of(wanted))(leaf)


def _auto_axes():
    try:
        from jax.sharding import auto_axes
    except ImportError:
        try:
            from jax.experimental.shard import auto_axes  # where it was before
        except ImportError as error:
            raise RuntimeError(
                f"Params on explicit axes of a mesh need `auto_axes`, which this JAX ({jax.__version__}) has not. Update it, or "
                "make the mesh with `axis_types=(jax.sharding.AxisType.Auto, ...)`."
            ) from error
    return auto_axes


def _on_last_axis(like, num, axes):
    def spec(leaf):
        if not leaf.shape or not axes or num not in (None, leaf.shape[-1]):
            return PartitionSpec(*(None,) * len(leaf.shape))
        return PartitionSpec(*(None,) * (len(leaf.shape) - 1), axes if len(axes) > 1 else axes[0])

    return jax.tree.map(spec, like)


def _sharding(leaf):
    """Of a leaf's type, on a mesh."""
    sharding = getattr(jax.typeof(leaf), "sharding", None)
    return None if sharding is None or sharding.mesh.empty else sharding


def _names(names):
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def _axes(spec):
    return {axis for names in spec for axis in _names(names)}
