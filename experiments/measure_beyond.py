"""Runs every shipped optimizer for ten times its horizon, for the tables of their cards: python experiments/measure_beyond.py

    python experiments/measure_beyond.py [NAME ...] [--quick]

Each on its own problem and on three others, as `l2o.load` returns it (beyond="hold"), without that (beyond=None), and with
"anneal" and "fallback"; in JAX, and with "hold" in PyTorch, which is given JAX's gradients. The loss, on the same 16 minibatches, after
2 and 10 horizons over that after one: geometric means, and the worst run. Writes results/beyond.csv, a row as soon as it is there, and
leaves out what is there already. Full MNIST, CIFAR-10 and the style pictures for those trained on them (docs/data.md). Two hours of a
core, most of it `lstm-cifar`. `--quick`: a tenth of the steps on the shipped sample, printed only.
"""

import argparse
import csv
import time
from pathlib import Path

import jax
import numpy as np

import l2o
from l2o import _plugins, horizons
from l2o.beyond import silenced

RESULTS = Path(__file__).parent / "results" / "beyond.csv"
COLUMNS = ["optimizer", "problem", "own", "framework", "beyond", "horizon", "run", "start", "at_1", "at_2", "at_10"]

# Three problems that the rule has not seen, each a task and its arguments. Of rules with parts, the params of the last layer
# are given to the second one.
OTHERS = {
    "lstm-quadratic": [("logistic", {}), ("lasso", {}), ("mlp", {})],
    "lstm-mnist": [("quadratic", {}), ("logistic", {"data": "digits"}), ("convnet", {})],
    "lstm-mnist-pair": [("mlp", {"activation": "relu"}), ("convnet", {}), ("char_rnn", {})],
    "lstm-mnist-mixture": [("mlp", {"hidden": (80, 80, 80)}), ("convnet", {}), ("char_rnn", {})],
    "lstm-cifar": [("mlp", {}), ("convnet", {}), ("char_rnn", {})],
    "lstm-style": [("quadratic", {}), ("logistic", {"data": "digits"}), ("mlp", {})],
}
RUNS = {"lstm-cifar": 2, "lstm-style": 2}  # on their own problems, where a run takes minutes
WAYS = [("jax", None), ("jax", "hold"), ("jax", "anneal"), ("jax", "fallback"), ("torch", "hold")]


def labelled(optimizer, family):
    """The optimizer for the params of this family, and each leaf's part (None: it has no parts)."""
    params = jax.eval_shape(lambda: family(jax.random.key(0)).init(jax.random.key(0)))
    parts = getattr(optimizer, "parts", None)
    if parts is None:
        return optimizer, None
    first, second = parts
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if isinstance(params, dict) and set(params) == set(parts):
        labels = {path: next(name for name in parts if path.startswith(f"[{name!r}]")) for path in paths}
    else:
        labels = {path: second if i >= len(paths) - 2 else first for i, path in enumerate(paths)}
    label = lambda path, leaf: labels[jax.tree_util.keystr(path)]
    return l2o.Partitioned(parts, label), [labels[path] for path in paths]


def in_torch(name, parts, family, key, steps):
    """`horizons.losses_at` with PyTorch's optimizer on JAX's gradients."""
    import torch

    from l2o.torch import LearnedOptimizer

    task, state, batch_key = l2o.begin(family, l2o.baselines.get("sgd").make(0.0), key)
    judged = jax.random.split(jax.random.fold_in(key, 4), 16)
    leaves, treedef = jax.tree.flatten(state.params)
    params = [torch.nn.Parameter(torch.tensor(np.asarray(leaf))) for leaf in leaves]
    groups = params
    if parts is not None:
        named = dict.fromkeys(parts)
        groups = [{"params": [p for p, q in zip(params, parts, strict=True) if q == part], "part": part} for part in named]
    optimizer = LearnedOptimizer(groups, name)
    now = lambda: jax.tree.unflatten(treedef, [p.detach().numpy() for p in params])
    gradient = jax.jit(lambda params, step: jax.tree.leaves(jax.grad(task.loss)(params, jax.random.fold_in(batch_key, step))))
    judge = jax.jit(lambda params: jax.lax.map(lambda k: task.loss(params, k), judged).mean())
    losses = [float(judge(now()))]
    for step in range(steps[-1]):
        for p, g in zip(params, gradient(now(), step), strict=True):
            p.grad = torch.tensor(np.asarray(g))
        optimizer.step()
        if step + 1 in steps:
            losses.append(float(judge(now())))
    return np.asarray(losses)


def problems(name, quick):
    """(title, family, whether it is its own) of the four problems."""
    recipe = l2o.pretrained.header(name)["recipe"]
    own = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.get("task_arguments", {}).items()}
    for task, arguments, is_own in [(recipe["task"], own, True), *((t, a, False) for t, a in OTHERS[name])]:
        default = {"style": "synthetic"}.get(task, "mnist_sample")
        if quick and "data" in arguments and is_own:
            arguments = {"data": default} if task == "style" else {**arguments, "data": default}
        title = task + (f" ({', '.join(f'{k}={v}' for k, v in arguments.items() if v is not None)})" if arguments else "")
        yield title, _plugins.get("tasks", task).family(**arguments), is_own


def main():
    """Measures what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(OTHERS))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    done = set()
    if RESULTS.exists() and not arguments.quick:
        with RESULTS.open() as file:
            done = {(r["optimizer"], r["problem"], r["framework"], r["beyond"], r["run"]) for r in csv.DictReader(file)}
    for name in arguments.names:
        horizon = l2o.pretrained.header(name)["recipe"]["horizon"]
        for title, family, own in problems(name, arguments.quick):
            for run in range(RUNS.get(name, 4) if own else 4):
                for framework, how in WAYS:
                    if (name, title, framework, str(how), str(run)) in done:
                        continue
                    scale = 10 if arguments.quick else 1
                    steps = tuple(k * horizon // scale for k in (0, 1, 2, 10))
                    key, started = jax.random.fold_in(jax.random.key(5), run), time.perf_counter()
                    optimizer, parts = labelled(l2o.load(name, beyond=how), family)
                    if framework == "torch":
                        losses = in_torch(name, parts, family, key, steps)
                    else:
                        losses = np.asarray(horizons.losses_at(silenced(optimizer), family, key, steps))
                    row = dict(zip(COLUMNS, [name, title, own, framework, how, horizon, run, *losses], strict=True))
                    print(*row.values(), f"{time.perf_counter() - started:.0f} s", flush=True)
                    if not arguments.quick:
                        new = not RESULTS.exists()
                        with RESULTS.open("a", newline="") as file:
                            writer = csv.DictWriter(file, COLUMNS)
                            if new:
                                writer.writeheader()
                            writer.writerow(row)


if __name__ == "__main__":
    main()
