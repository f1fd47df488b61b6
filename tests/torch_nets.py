"""One small network with convolution, dense and scalar parameters, written and optimized in both frameworks."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o.optimizers import pretrained, states

torch = pytest.importorskip("torch")

import l2o.torch as l2o_torch  # noqa: E402 (after the check that there is one)
from l2o.torch import LearnedOptimizer  # noqa: E402
from l2o.torch._build import of_part  # noqa: E402

SHAPES = {"conv": (2, 1, 3, 3), "gain": (), "dense": (32, 3), "bias": (3,)}
NAMES = sorted(SHAPES)  # the order of jax.tree.leaves of a dict


def start(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(0.3 * rng.normal(size=SHAPES[name]), dtype) for name in NAMES}


def data(dtype=np.float64, num=16):
    rng = np.random.default_rng(99)
    x = rng.normal(size=(num, 1, 6, 6))
    y = np.stack([x.mean((1, 2, 3)), x[:, 0, 0, 0], x.std((1, 2, 3))], axis=1)
    return x.astype(dtype), y.astype(dtype)


def jax_loss(params, x, y):
    hidden = jnp.tanh(jax.lax.conv(x, params["conv"], (1, 1), "VALID")) * params["gain"]
    output = hidden.reshape(len(x), -1) @ params["dense"] + params["bias"][None]
    return jnp.mean((output - y) ** 2)


def torch_loss(params, x, y):
    hidden = torch.tanh(torch.nn.functional.conv2d(x, params["conv"])) * params["gain"]
    output = hidden.reshape(len(x), -1) @ params["dense"] + params["bias"]
    return torch.mean((output - y) ** 2)


def torch_params(arrays):
    return {name: torch.nn.Parameter(torch.tensor(array)) for name, array in arrays.items()}


def parameter(*values, dtype=torch.float32, gradient=None):
    p = torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    if gradient is not None:
        p.grad = torch.tensor(gradient, dtype=dtype)
    return p


def in_torch(optimizer, params, num_steps):
    """Flat params after every step, [num_steps, num]."""
    x, y = (torch.tensor(array).to(params["conv"].dtype) for array in data())
    rows = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        torch_loss(params, x, y).backward()
        optimizer.step()
        rows.append(torch.cat([p.detach().reshape(-1) for p in params.values()]).numpy())
    return np.stack(rows)


def unflatten(flat):
    parts = jnp.split(flat, np.cumsum([int(np.prod(SHAPES[name])) for name in NAMES])[:-1])
    return {name: part.reshape(SHAPES[name]) for name, part in zip(NAMES, parts, strict=True)}


def in_jax(optimizer, num_steps, dtype, params=None, state=None):
    """The same from the start or from `params` and `state`, and the last params and state."""
    x, y = data(dtype)
    params = jax.tree.map(jnp.asarray, start(dtype=dtype)) if params is None else params
    state = optimizer.init(params) if state is None else state

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(jax_loss)(params, x, y), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(params)])

    last, rows = jax.jit(lambda carry: jax.lax.scan(step, carry, length=num_steps))((params, state))
    return np.asarray(rows), last


def drift(actual, expected):
    """Relative difference at every step."""
    return np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)


SHIPPED = pytest.mark.parametrize(  # a partitioned optimizer: every part for itself, as "NAME:PART"
    "name",
    [
        f"{name}:{part}" if part else name
        for name in pretrained.names()
        for part in pretrained.header(name)["arguments"].get("parts", [""])
    ],
)


def both(name, dtype):
    """A shipped optimizer that computes in `dtype`, for JAX and for torch."""
    name, _, part = name.partition(":")
    weights = l2o_torch.load_weights(name, dtype=torch.float64 if dtype == np.float64 else torch.float32)
    weights.pop("horizon")  # the rule itself: what happens after its last step has tests of its own
    optimizer = l2o.load(name, beyond=None)
    optimizer = optimizer.parts[part] if part else optimizer
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), optimizer), of_part(weights, part or None)


def assert_it_goes_on_in_the_other(rule, weights, path, cut, length, told=None):
    """A run that is cut goes on in the other framework, both ways, by a state file at `path`. In double precision.

    `told`: the context of a warning that PyTorch is to give where it goes on.
    """
    whole, _ = in_jax(rule, length, np.float64)

    # JAX, then torch
    _, (params, state) = in_jax(rule, cut, np.float64)
    states.save(path, rule, state, params)
    ours = torch_params({k: np.asarray(v) for k, v in params.items()})
    optimizer = LearnedOptimizer(ours.values(), weights)
    l2o_torch.load_state(path, optimizer)
    with (
        contextlib.nullcontext() if told is None else told
    ):  # a context that records warnings is false while it has none
        rest = in_torch(optimizer, ours, length - cut)
    assert drift(rest, whole[cut:]).max() < 1e-9

    # torch, then JAX
    ours = torch_params(start())
    optimizer = LearnedOptimizer(ours.values(), weights)
    in_torch(optimizer, ours, cut)
    l2o_torch.save_state(path, optimizer)
    params = {k: jnp.asarray(p.detach().numpy()) for k, p in ours.items()}
    rest, _ = in_jax(rule, length - cut, np.float64, params, states.load(path, rule, params))
    assert drift(rest, whole[cut:]).max() < 1e-9


def assert_parts_go_as_in_jax(partitioned, weights, gradients, num_steps):
    """A group for each part, on gradients that stay the same. Returns the optimizer and its params by part."""
    params = {name: parameter(*np.zeros(len(g)), gradient=g) for name, g in gradients.items()}
    optimizer = LearnedOptimizer([{"params": [p], "part": name} for name, p in params.items()], weights)
    expected = {name: jnp.zeros(len(g)) for name, g in gradients.items()}
    state, grads = partitioned.init(expected), {name: jnp.asarray(g) for name, g in gradients.items()}
    for _ in range(num_steps):
        optimizer.step()
        updates, state = partitioned.update(grads, state, expected)
        expected = optax.apply_updates(expected, updates)
    for name, p in params.items():
        np.testing.assert_allclose(p.detach().numpy(), expected[name], rtol=1e-5, atol=1e-9)
    return optimizer, params
