"""One small network with convolution, dense and scalar parameters, written in both frameworks."""

import jax
import jax.numpy as jnp
import numpy as np

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
    import torch

    hidden = torch.tanh(torch.nn.functional.conv2d(x, params["conv"])) * params["gain"]
    output = hidden.reshape(len(x), -1) @ params["dense"] + params["bias"]
    return torch.mean((output - y) ** 2)


def torch_params(arrays):
    import torch

    return {name: torch.nn.Parameter(torch.tensor(array)) for name, array in arrays.items()}
