"""What `test_b1_...` runs in a process of its own: learned rules on 8 host devices, explicit axes and Auto ones."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import l2o
from l2o.optimizers import lstm, ntm_bfgs

jax.config.update("jax_num_cpu_devices", 8)  # nothing before has asked for devices

KEY = jax.random.key(0)
SHAPES = {"a": (8, 4), "b": (4, 8), "c": (3,), "d": (16,), "e": (8,)}
DTYPES = {"e": jnp.complex64}
SPECS = {"a": P("x", None), "b": P(None, "x"), "c": P(), "d": P(("x", "y")), "e": P("y")}
SMALL = {"num_layers": 1, "num_units": 3}


def drawn(seed):
    rng = np.random.default_rng(seed)
    draw = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: jnp.asarray(x, DTYPES.get(name, x.dtype)) for name, x in draw.items()}


def put(tree, mesh):
    return {name: jax.device_put(x, NamedSharding(mesh, SPECS[name])) for name, x in tree.items()}


def run(optimizer, placed, jit):
    """Params, last updates and state after three steps on gradients that depend on the params."""

    def step(params, state, gradient):
        gradient = jax.tree.map(lambda g, p: g + 0.1 * p, gradient, params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), updates, state

    if jit:
        step = jax.jit(step, donate_argnums=(0, 1))
    params = placed(drawn(0))
    state = optimizer.init(params)
    for seed in range(3):
        params, updates, state = step(params, state, placed(drawn(seed + 1)))
    return params, updates, state


def rule(name):
    if name == "lstm":
        return lstm.build(KEY, **SMALL)
    if name == "global":
        return lstm.build(KEY, num_global=2, **SMALL)
    if name == "rescaled":
        return l2o.Rescaled(lstm.build(KEY, **SMALL), 0.1)
    if name == "ntm_bfgs":
        return ntm_bfgs.build(KEY, num_global=2, memory_pairs=3, **SMALL)
    if name == "partitioned":
        parts = {"one": lstm.build(KEY, **SMALL), "other": rule("global")}
        return l2o.Partitioned(parts, lambda path, leaf: "one" if path[0].key in "ac" else "other")
    return optax.adam(0.1)


def check(name, mesh, jit):
    optimizer = rule(name)
    expected = run(optimizer, lambda tree: tree, jit)
    actual = run(optimizer, lambda tree: put(tree, mesh), jit)
    for part, wanted in zip(actual[:2], expected[:2], strict=True):
        for key in SHAPES:
            np.testing.assert_allclose(part[key], wanted[key], rtol=1e-5, atol=1e-6, err_msg=f"{name} {key}")
            if AxisType.Explicit in mesh.axis_types:  # on Auto axes XLA chooses, of a jitted step
                assert jax.typeof(part[key]).sharding.spec == jax.typeof(put(drawn(0), mesh)[key]).sharding.spec
                assert part[key].sharding.is_equivalent_to(NamedSharding(mesh, SPECS[key]), part[key].ndim)
    return actual[2]


def collectives(optimizer, mesh):
    params = put(drawn(0), mesh)
    update = jax.jit(lambda g, s, p: optimizer.update(g, s, p))
    text = update.lower(params, optimizer.init(params), params).compile().as_text()
    return sorted(
        re.findall(r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text)
    )


def explicit(name):
    """On both kinds of context: the mesh set, and only in the arrays' types."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    for jit in (False, True):
        state = check(name, mesh, jit)
    with jax.set_mesh(mesh):
        check(name, mesh, True)
    if name == "lstm":
        # Every device: 8 of a, 8 of b, 3 of c, 2 of d, and 4 complex numbers of e.
        for leaf in jax.tree.leaves(state):
            assert leaf.shape == (3, 8 * (8 + 8 + 3 + 2 + 8)), leaf.shape
            assert leaf.sharding.spec == P(None, ("x", "y"))
            assert {s.data.shape for s in leaf.addressable_shards} == {(3, 29)}
        assert collectives(rule(name), mesh) == collectives(rule("adam"), mesh) == []
        start = run(rule(name), lambda tree: tree, True)[2]
        with pytest.raises(ValueError, match="divided among devices in another way"):
            rule(name).update(put(drawn(0), mesh), start, put(drawn(0), mesh))
    if name in ("global", "rescaled"):  # of 99 coordinates
        assert all(leaf.shape[-1] == 99 for leaf in jax.tree.leaves(state))


def divisible():
    """A state whose coordinates can be divided evenly is, for rules that see all of them."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    params = jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, P("x", "y")))
    for name in ("global", "rescaled", "ntm_bfgs"):
        for leaf in jax.tree.leaves(rule(name).init(params)):
            assert leaf.ndim == 0 or leaf.sharding.spec == P(*(None,) * (leaf.ndim - 1), ("x", "y")), leaf.sharding


def auto(name):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    for jit in (False, True):
        check(name, mesh, jit)


def replicated():
    """All of the params on every device of an explicit mesh, as `jnp.zeros` makes them once the mesh is set."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        for name in ("lstm", "global"):
            optimizer, params = rule(name), {"w": jnp.ones((2, 3)), "b": jnp.zeros(5)}
            updates, state = jax.jit(optimizer.as_optax().update)(params, optimizer.init(params), params)
            assert jax.tree.leaves(state)[0].shape == (3, 11)
            assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


if __name__ == "__main__":
    for call in sys.argv[1:]:
        function, _, argument = call.partition(":")
        globals()[function](*([argument] if argument else []))
    print("done")
