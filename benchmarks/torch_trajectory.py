"""How far a trajectory in PyTorch drifts from the one in JAX, and how far JAX drifts from itself.

    python benchmarks/torch_trajectory.py [--only NAME ...] [--steps 200]

A small net with convolution, dense and scalar parameters (all smooth: tanh, cross-entropy) on images of the MNIST sample,
written in both frameworks, which compute their own gradients. Two problems: "full batch", the same 128 images at every step,
so that nothing is random, and "minibatches", 32 out of 4,000, drawn once for all. For every shipped optimizer, and for Adam as a
yardstick, in float64 and float32, the relative difference of all parameters from those of the run in JAX after 1, 2, 5, ...,
200 steps:

- "torch": PyTorch, on its own gradients. What the bar is about: at most 1e-6 in float64, 1e-2 in float32, at every step.
- "torch, given gradients": the same, but fed the gradients of the run in JAX: what the rule itself adds.
- "JAX, start one ulp away": every parameter starts at the next floating-point number.
- "JAX, gradients rounded otherwise": every gradient times 1 + e, e random and at most the machine's epsilon. Any other
  implementation rounds differently: no drift below these two can be asked of it.

A rule is called chaotic where the last two grow past the bar themselves: then no implementation can hold it. The largest of all
steps is the last column. Written to benchmarks/results/torch_trajectory.csv. A minute on one core.
"""

import argparse
import csv
import functools
import io
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import l2o
from l2o.io.files import write_whole
from l2o.torch import LearnedOptimizer, load_weights

RESULTS = Path(__file__).parent / "results"
PROBLEMS = {"full batch": (128, 128), "minibatches": (4000, 32)}  # images, and how many a step
STEPS = (1, 2, 5, 10, 20, 50, 100, 200)
BAR = {"float64": 1e-6, "float32": 1e-2}
RATE = 0.01  # Adam's
SHAPES = {
    "bias": (10,),
    "conv": (4, 1, 3, 3),
    "dense": (144, 10),
    "gain": (),
    "offset": (),
}  # in the order of jax.tree.leaves
FLOORS = ("JAX, start one ulp away", "JAX, gradients rounded otherwise")


def data(dtype, problem, num_steps):
    """Images of 14 x 14 pixels in [0, 1], their labels, and which of them every step sees, [num_steps, batch]."""
    num, batch = PROBLEMS[problem]
    images = l2o.data.load("mnist_sample")
    x = images.x_train[:num].reshape(num, 1, 14, 2, 14, 2).mean((3, 5)) / 255
    index = np.random.default_rng(1).integers(num, size=(num_steps, batch))
    if batch == num:
        index[:] = np.arange(num)
    return x.astype(dtype), images.y_train[:num].astype(np.int64), index


def start(dtype):
    rng = np.random.default_rng(0)
    scales = {"conv": 1 / 3, "dense": 1 / 12}
    params = {name: rng.normal(size=shape) * scales.get(name, 0.0) for name, shape in SHAPES.items()}
    params["gain"] += 1.0
    return {name: np.asarray(value, dtype) for name, value in params.items()}


def jax_loss(params, x, y):
    conv = jax.lax.conv(x, params["conv"], (2, 2), "VALID")
    hidden = jnp.tanh(params["gain"] * conv + params["offset"]).reshape(len(x), -1)
    logits = hidden @ params["dense"] + params["bias"][None]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))


def torch_loss(params, x, y):
    conv = torch.nn.functional.conv2d(x, params["conv"], stride=2)
    hidden = torch.tanh(params["gain"] * conv + params["offset"]).reshape(len(x), -1)
    return torch.nn.functional.cross_entropy(hidden @ params["dense"] + params["bias"], y)


def flat(params):
    return np.concatenate([np.asarray(params[name]).reshape(-1) for name in SHAPES])


def in_jax(optimizer, dtype, problem, num_steps, *, ulp=False, rounded=False):
    """Params, [num_steps, num], losses and gradients of a run."""
    x, y, index = (jnp.asarray(array) for array in data(dtype, problem, num_steps))
    params = jax.tree.map(jnp.asarray, start(dtype))
    if ulp:
        params = jax.tree.map(lambda p: jnp.nextafter(p, jnp.full_like(p, 9.0)), params)

    def step(carry, inputs):
        params, state = carry
        chosen, key = inputs
        loss, gradient = jax.value_and_grad(jax_loss)(params, x[chosen], y[chosen])
        if rounded:
            eps = jnp.finfo(dtype).eps
            leaves, treedef = jax.tree.flatten(gradient)
            keys = jax.random.split(key, len(leaves))
            leaves = [
                g + g * jax.random.uniform(k, g.shape, dtype, -eps, eps) for k, g in zip(keys, leaves, strict=True)
            ]
            gradient = jax.tree.unflatten(treedef, leaves)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, loss, gradient)

    keys = jax.random.split(jax.random.key(1), num_steps)
    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, (index, keys))[1])
    rows, losses, gradients = jax.device_get(scan((params, optimizer.init(params))))
    return by_step(rows), losses, gradients


def by_step(rows):
    return np.concatenate([rows[name].reshape(len(rows[name]), -1) for name in SHAPES], axis=1)


def in_torch(make, dtype, problem, num_steps, *, given=None):
    """Params, [num_steps, num], of a run on its own gradients, or on those `given`."""
    x, y, index = (torch.tensor(array) for array in data(dtype, problem, num_steps))
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start(dtype).items()}
    optimizer, rows = make(params.values()), []
    for t in range(num_steps):
        optimizer.zero_grad()
        if given is None:
            torch_loss(params, x[index[t]], y[index[t]]).backward()
        else:
            for name, p in params.items():
                p.grad = torch.tensor(given[name][t])
        optimizer.step()
        rows.append(flat({name: p.detach().numpy() for name, p in params.items()}))
    return np.stack(rows)


def drifts(name, precision, problem, num_steps):
    """Relative difference after every step, by what was run; and the first and last loss in JAX."""
    dtype = np.dtype(precision)
    with jax.enable_x64(precision == "float64"):
        if name == "adam":
            optimizer, make = optax.adam(RATE), functools.partial(torch.optim.Adam, lr=RATE)
        else:
            optimizer = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), l2o.load(name))
            weights = load_weights(name, dtype=getattr(torch, precision))
            make = functools.partial(LearnedOptimizer, weights={k: v for k, v in weights.items() if k != "scale"})
        expected, losses, gradients = in_jax(optimizer, dtype, problem, num_steps)
        runs = {
            "torch": in_torch(make, dtype, problem, num_steps),
            "torch, given gradients": in_torch(make, dtype, problem, num_steps, given=gradients),
            FLOORS[0]: in_jax(optimizer, dtype, problem, num_steps, ulp=True)[0],
            FLOORS[1]: in_jax(optimizer, dtype, problem, num_steps, rounded=True)[0],
        }
    norm = np.linalg.norm(expected, axis=1)
    return {what: np.linalg.norm(rows - expected, axis=1) / norm for what, rows in runs.items()}, losses


def verdict(found, limit):
    largest = {what: values.max() for what, values in found.items()}
    if largest["torch"] <= limit:
        return "PASS"
    return "chaotic" if max(largest[what] for what in FLOORS) > limit else "FAIL"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps = [t for t in STEPS if t <= arguments.steps]
    head = f"| relative drift after step | {' | '.join(map(str, steps))} | largest |"
    print(head + f"\n|---|{'---|' * (len(steps) + 1)}")
    lines, verdicts = [], []
    cases = itertools.product(
        arguments.only or [*l2o.pretrained.names(partitioned=False), "adam"], PROBLEMS, BAR.items()
    )
    for name, problem, (precision, limit) in cases:
        found, losses = drifts(name, precision, problem, arguments.steps)
        case = f"{name}, {problem}, {precision}"
        for what, values in found.items():
            shown = [values[t - 1] for t in steps] + [values.max()]
            print(f"| {case}, {what} | {' | '.join(f'{v:.0e}' for v in shown)} |", flush=True)
            columns = dict(zip([*(f"step {t}" for t in steps), "largest"], (f"{v:.2e}" for v in shown), strict=True))
            ours = {"bar": limit, "verdict": verdict(found, limit)} if what == "torch" else {"bar": "", "verdict": ""}
            lines.append(
                {"optimizer": name, "problem": problem, "precision": precision, "run": what, **columns, **ours}
            )
        verdicts.append(
            f"{verdict(found, limit)} {case}: {found['torch'].max():.1e} of at most {limit:.0e}; loss from {losses[0]:.3g} to "
            f"{losses[-1]:.3g}"
        )
    print("\n" + "\n".join(verdicts))
    if arguments.only is None and arguments.steps == STEPS[-1]:
        text = io.StringIO()
        writer = csv.DictWriter(text, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        RESULTS.mkdir(exist_ok=True)
        write_whole(RESULTS / "torch_trajectory.csv", text.getvalue().encode())


if __name__ == "__main__":
    main()
