"""The update rule: optax's protocol, with meta-parameters as array leaves."""

import abc
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from l2o.core import coordinates as _coordinates
from l2o.core import meshes as _meshes
from l2o.core.checks import kind
from l2o.io.contents import OWN

OptState: TypeAlias = PyTree
T = TypeVar("T")


class CoordinateGroup(NamedTuple):
    """A rule that acts on some leaves of the params as if there were no others."""

    rule: "AbstractLearnedOptimizer"
    take: Callable[[PyTree], PyTree]  # of a tree like the params, these leaves, and `None` for the others


class AbstractLearnedOptimizer(eqx.Module):
    r"""An update rule $[u_t, h_{t+1}] = m(\nabla_t, h_t; \varphi)$ in optax's protocol.

    Array leaves are the meta-parameters $\varphi$; everything else is a static field. Because `init` and `update` are
    optax's, a learned optimizer goes wherever an `optax.GradientTransformation` goes: `optax.chain`, `optax.masked`, ....
    The updates returned are *added* to the params.

    Complex params and gradients are as optax's rules take them. `jax.grad` of a real loss points to the steepest ascent only
    after conjugation: `update(jax.tree.map(jnp.conj, gradients), state, params)`. `l2o.unroll` does that itself.
    """

    # True: `unroll` passes `value`, `grad` and `value_fn` to `update`, as it does to optax's.
    uses_value: ClassVar[bool] = False
    # False: gradients of all sizes are the same to it.
    sees_scale: ClassVar[bool] = True

    @abc.abstractmethod
    def init(self, params: PyTree) -> OptState:
        """The state $h_0$ for these params."""

    @abc.abstractmethod
    def update(
        self, updates: PyTree, state: OptState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, OptState]:
        """Maps gradients (`updates`) to updates of the same structure, shapes and dtypes."""

    def eval_params(self, opt_state: OptState, params: PyTree) -> PyTree:
        """Where the rule's answer is, and its losses are reported. By default at the params themselves."""
        return params

    @property
    def has_eval_params(self) -> bool:
        """Whether its answer is elsewhere than at the params. Of a wrapper, what it wraps decides."""
        return type(self).eval_params is not AbstractLearnedOptimizer.eval_params

    def coordinate_groups(self, params: PyTree) -> Mapping[str, CoordinateGroup] | None:
        """For a wrapper of rules that share out the leaves of the params: the rules by name. None: it is one rule.

        The wrapper's state is then a dict of theirs, by the same names.
        """
        return None

    def group_rules(self) -> "Mapping[str, AbstractLearnedOptimizer] | None":
        """The rules of `coordinate_groups`, for what is done to each before there are params. None: it is done to the whole."""
        return None

    def with_groups(self, rules: Mapping[str, Any]) -> "AbstractLearnedOptimizer":
        """Itself with other rules, or the cotangents of rules, in the places of those of `coordinate_groups`."""
        raise NotImplementedError(f"{type(self).__name__} has `coordinate_groups` and must say where they are in it.")

    def silenced(self, length: int | None) -> tuple["AbstractLearnedOptimizer", str | None]:
        """Itself without its warnings, and what a run of `length` steps would be told, if anything."""
        return self, None

    def to_spec(self) -> dict[str, Any]:
        """How it is made again, for a weights file: the "architecture" and its "arguments", plain values that JSON can hold.

        By default a class of `l2o.optimizers` is told by its module's name and its constructor's arguments, which it keeps as
        fields of the same names; of any other class the name is written down, and only `l2o.load(path, like=...)` reads it.

        **Raises:** `ValueError` if it cannot be told.
        """
        module = type(self).__module__
        room, _, name = module.rpartition(".")
        if room != "l2o.optimizers":
            plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if hasattr(self, f.name)}
            constants = {name: x for name, x in plain.items() if isinstance(x, bool | int | float | str | None)}
            return {"architecture": OWN, "arguments": {"class": f"{module}:{type(self).__qualname__}", **constants}}
        parameters = inspect.signature(type(self).__init__).parameters
        arguments = {name: getattr(self, name) for name in parameters if name not in ("self", "key")}
        return {"architecture": name, "arguments": arguments}

    def as_optax(self) -> optax.GradientTransformationExtraArgs:
        """The same rule as optax's own pair of functions, for code that asks for one.

        `jax.jit(optimizer.as_optax().update)` works where `jax.jit(optimizer.update)` cannot (a bound method of a module
        with arrays has no hash); and optax's wrappers pass `value` and `value_fn` on to it, as `Guarded` wants.
        """

        def init(params):
            return self.init(params)

        def update(updates, state, params=None, **extra):
            return self.update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(init, update)


class AbstractFlat(AbstractLearnedOptimizer):
    r"""A rule on the vector of all coordinates: the leaves of the params are concatenated before it, and split after it.

    So the rule's network runs as a few large matrix products rather than many small ones. **Coordinates are the last axis**
    of what the state holds for each of them.

    A complex number is two coordinates, its real and its imaginary part. Leaves of the params that are neither floating nor
    complex have none; their gradients must be `None` or left out. Params that are divided among devices on explicit axes of a
    mesh are taken as they are: updates are divided as the params, the state by its coordinates.

    **Raises:** from `init`, `TypeError` if the params have a leaf that is no array; from `update`, `TypeError` for a gradient
    that is neither floating nor complex, and `ValueError` if one is missing or the params are divided on several meshes.
    """

    @abc.abstractmethod
    def init_coordinates(self, num: int) -> OptState:
        """State of `num` coordinates."""

    @abc.abstractmethod
    def update_coordinates(
        self, gradients: Float[Array, " num"], state: OptState, params: Float[Array, " num"] | None
    ) -> tuple[Float[Array, " num"], OptState]:
        """One step for `num` coordinates."""

    def init(self, params):
        _coordinates.check(params)
        leaves = jax.tree.leaves(params)
        mesh = _meshes.mesh_of(leaves)
        state = self._init_leaves(leaves) if mesh is None else self._init_on(mesh, leaves)
        return _distinct(state, self)

    def update(self, updates, state, params=None, **extra):
        gradients, params, rebuild = _coordinates.align(updates, params)
        mesh = _meshes.mesh_of(gradients if params is None else params)
        self._check_state(state, mesh)
        if mesh is None:
            found, state = self._update_leaves(gradients, state, params)
        else:
            if params is not None:
                gradients = [_meshes.like(g, p, mesh) for g, p in zip(gradients, params, strict=True)]
            found, state = self._update_on(mesh, gradients, state, params)
        return rebuild(found), state

    def _init_leaves(self, leaves):
        return self.init_coordinates(_coordinates.num_coordinates(leaves))

    def _update_leaves(self, gradients, state, params):
        flat_params = None if params is None else _coordinates.join(params)
        flat, state = self.update_coordinates(_coordinates.join(gradients), state, flat_params)
        return _coordinates.split(flat, gradients), state

    def _init_on(self, mesh, leaves):
        arrays, static = eqx.partition(self, eqx.is_array)
        specs = self._state_specs(mesh, leaves)
        return _meshes.by_xla(lambda arrays: eqx.combine(arrays, static)._init_leaves(leaves), mesh, specs)(arrays)

    def _update_on(self, mesh, gradients, state, params):
        arrays, static = eqx.partition(self, eqx.is_array)
        specs = [_meshes.spec_of(g) for g in gradients], self._state_specs(mesh, gradients)
        update = _meshes.by_xla(lambda arrays, *rest: eqx.combine(arrays, static)._update_leaves(*rest), mesh, specs)
        return update(arrays, gradients, state, params)

    def _state_specs(self, mesh, leaves):
        num = _coordinates.num_coordinates(leaves)
        return _meshes.state_specs(jax.eval_shape(lambda: self.init_coordinates(num)), mesh, num)

    def _check_state(self, state, mesh):
        """Whether a state can be of params divided on this mesh, or on none."""


class AbstractCoordinatewise(AbstractFlat):
    r"""A rule that treats every coordinate of $\theta$ alike and apart from the others (Andrychowicz et al. 2016, 2.1).

    Every leaf of the state has shape [..., num]: that is what lets the meta-gradient be computed for blocks or samples of
    coordinates (`l2o.Blocks`, `l2o.Sampled`). A rule whose coordinates see each other is an `AbstractFlat`.

    On explicit axes of a mesh every device acts on its own shards, and nothing is sent between them. The state's last axis is
    then the devices' coordinates one device after the other: it belongs to params that are divided in this way.
    """

    def run_coordinates(
        self, gradients: PyTree, state: OptState, params: Float[Array, " num"]
    ) -> tuple[Float[Array, "length num"], OptState]:
        """The updates of all steps, and the final state, from gradients [length, ...] that are known beforehand.

        Meta-gradients are taken through this. Equal to `length` times `update_coordinates`, its updates added to the params;
        override it where you have something faster, or a faster derivative.
        """

        # Recomputing one step in the backward pass is cheaper than storing all it computed.
        @jax.checkpoint
        def step(carry, gradient):
            params, state = carry
            updates, state = self.update_coordinates(gradient, state, params)
            return (params + updates.astype(params.dtype), state), updates

        (_, state), updates = jax.lax.scan(step, (params, state), gradients)
        return updates, state

    def _update_leaves(self, gradients, state, params):
        num = _coordinates.num_coordinates(gradients)
        if any(leaf.shape == () for leaf in jax.tree.leaves(state)):
            raise ValueError(
                f"A leaf of the state of {type(self).__name__} is one number for all coordinates. A coordinatewise rule has one "
                "for each: `jnp.zeros(num)` for a count of steps, say. A rule that needs less is an `l2o.AbstractFlat`."
            )
        wrong = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape[-1] != num]
        if wrong:
            raise ValueError(
                f"The gradients have {num} coordinates, but the state is of others (a leaf of it has shape {wrong[0]}). Start "
                "with `init` of these very params, divided among devices as they are now."
            )
        return super()._update_leaves(gradients, state, params)

    def _init_on(self, mesh, leaves):
        arrays, static = eqx.partition(self, eqx.is_array)
        shards = [jax.ShapeDtypeStruct(_meshes.shard_shape(x, mesh), jax.typeof(x).dtype) for x in leaves]
        specs = _meshes.shard_specs(jax.eval_shape(lambda: self._init_leaves(shards)), mesh)
        init = _meshes.per_shard(
            lambda arrays: eqx.combine(arrays, static)._init_leaves(shards), mesh, (PartitionSpec(),), specs
        )
        return init(arrays)

    def _update_on(self, mesh, gradients, state, params):
        arrays, static = eqx.partition(self, eqx.is_array)
        leaf_specs, state_specs = [_meshes.spec_of(g) for g in gradients], _meshes.shard_specs(state, mesh)
        in_specs = (PartitionSpec(), leaf_specs, state_specs, None if params is None else leaf_specs)
        update = _meshes.per_shard(
            lambda arrays, *rest: eqx.combine(arrays, static)._update_leaves(*rest),
            mesh,
            in_specs,
            (leaf_specs, state_specs),
        )
        return update(arrays, gradients, state, params)

    def _check_state(self, state, mesh):
        if not _meshes.is_per_shard(state, mesh):
            raise ValueError(
                "The state is of params that were divided among devices in another way: its coordinates are in another order. "
                "Start with `init` of the params as they are divided now (a state read from a file: `jax.device_put` it with "
                "the shardings that `init`'s has)."
            )


def _distinct(state, rule):
    """The state with a buffer of its own for every leaf, so that it can be donated."""
    seen = {id(leaf) for leaf in jax.tree.leaves(rule)}
    leaves, treedef = jax.tree.flatten(state)
    for i, leaf in enumerate(leaves):
        leaves[i] = jnp.copy(leaf) if id(leaf) in seen else leaf
        seen.add(id(leaf))
    return jax.tree.unflatten(treedef, leaves)


Optimizer: TypeAlias = AbstractLearnedOptimizer | optax.GradientTransformation


def silenced(optimizer: T, length: int | None = None) -> T:
    """The optimizer without its warnings, for loops that know their `length`, which is warned of here and now."""

    def warns(x):
        return isinstance(x, AbstractLearnedOptimizer) and type(x).silenced is not AbstractLearnedOptimizer.silenced

    told: dict[str, None] = {}  # once, of all parts

    def quiet(rule):
        rule, message = rule.silenced(length)
        if message is not None:
            told[message] = None
        return rule

    optimizer = jax.tree.map(lambda x: quiet(x) if warns(x) else x, optimizer, is_leaf=warns)
    for message in told:
        warnings.warn(message, UserWarning, stacklevel=3)
    return optimizer


def eval_params_of(optimizer: Optimizer) -> Callable[[OptState, PyTree], PyTree] | None:
    """Where an optimizer, learned or optax's, reports its losses if not at the params."""
    if isinstance(optimizer, AbstractLearnedOptimizer):
        return optimizer.eval_params if optimizer.has_eval_params else None
    return getattr(optimizer, "eval_params", None)


def check_optimizer(name: str, value: Any) -> Any:
    """`value`, if it is an optimizer.

    **Raises:** `TypeError` that calls it `name`.
    """
    kinds = AbstractLearnedOptimizer | optax.GradientTransformation
    kind(name, value, kinds, "a learned optimizer or an optax transformation, such as `optax.adam(1e-3)`")
    return value


def with_extra_args(optimizer: Optimizer) -> AbstractLearnedOptimizer | optax.GradientTransformationExtraArgs:
    """The optimizer, with an `update` that accepts (and may ignore) optax's extra arguments."""
    if isinstance(optimizer, AbstractLearnedOptimizer):
        return optimizer
    return optax.with_extra_args_support(optimizer)
