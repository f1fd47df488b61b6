"""Runs every shipped optimizer for ten times its horizon, for the tables of their cards: python experiments/measure_beyond.py

    python experiments/measure_beyond.py [NAME ...] [--quick]

Each on its own problem and on three others: as `l2o.load` returns it (beyond="hold"), as the bare rule (None), and with
"anneal" and "fallback"; in JAX, and with "hold" in PyTorch too, which is given JAX's gradients. Losses are means over the same
16 minibatches, after 1, 2 and 10 horizons. Writes results/beyond.csv, a row as soon as it is there, and leaves out what is there
already. Needs full MNIST, CIFAR-10 and the pictures (docs/data.md) for those trained on them. Two hours of a core, most of
them `lstm-cifar`. `--quick`: a tenth of the steps, on what ships, printed only. `--cards`: writes the tables of the cards and
the headers of the weights from results/beyond.csv.
"""

import argparse
import csv
import json
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

import l2o
from l2o.core import horizons, plugins
from l2o.core.optimizer import silenced
from l2o.io import weights as _weights
from l2o.io.files import write_whole

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
    "momentum-mnist": [("mlp", {"activation": "relu"}), ("convnet", {}), ("char_rnn", {})],
    "lstm-style": [("quadratic", {}), ("logistic", {"data": "digits"}), ("mlp", {})],
}
RUNS = {"lstm-cifar": 1, "lstm-style": 2}  # on their own problems, where a run takes minutes
WAYS = [("jax", None), ("jax", "hold"), ("jax", "anneal"), ("jax", "fallback"), ("torch", "hold")]


def ways(name):
    """Of a rule of a few constants "fallback" is no way to go on: it takes the last steps of each coordinate."""
    rule = l2o.load(name, beyond=None)
    flat = all(isinstance(part, l2o.AbstractFlat) for part in (rule.group_rules() or {"": rule}).values())
    return [(framework, how) for framework, how in WAYS if flat or how != "fallback"]


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
        groups = [
            {"params": [p for p, q in zip(params, parts, strict=True) if q == part], "part": part} for part in named
        ]
    optimizer = LearnedOptimizer(groups, name)
    now = lambda: jax.tree.unflatten(treedef, [p.detach().numpy() for p in params])
    gradient = jax.jit(
        lambda params, step: jax.tree.leaves(jax.grad(task.loss)(params, jax.random.fold_in(batch_key, step)))
    )
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
        title = task + (
            f" ({', '.join(f'{k}={v}' for k, v in arguments.items() if v is not None)})" if arguments else ""
        )
        yield title, plugins.get("tasks", task).family(**arguments), is_own


_GO_ON = 'To go on training, pass `beyond="fallback"`. '
TITLE = "## Beyond its horizon"


def publish(name):
    """Writes what was measured into the header of the weights, and as a table into the card."""
    with RESULTS.open() as file:
        rows = [row for row in csv.DictReader(file) if row["optimizer"] == name]
    horizon = l2o.pretrained.header(name)["recipe"]["horizon"]

    def found(problem, framework, how):
        ours = [r for r in rows if (r["problem"], r["framework"], r["beyond"]) == (problem, framework, how or "")]
        return horizons.ratios(np.asarray([[float(r[c]) for c in ("start", "at_1", "at_2", "at_10")] for r in ours]))

    path = _weights.shipped(name)
    arrays, header = _weights.read(path)
    header["horizon"] = json.dumps(horizon)
    owns = {row["problem"] for row in rows if row["own"] == "True"}
    for own in owns:
        header["beyond"] = json.dumps(horizons.summarised(found(own, "jax", None)))
    write_whole(path, safetensors.numpy.save(arrays, metadata=header))
    if not owns:
        print(f"{name}: nothing was measured on its own problem.")
        return
    problems = [
        problem for problem in dict.fromkeys(row["problem"] for row in rows) if len(found(problem, "torch", "hold"))
    ]
    far = 10 * horizon
    has_fallback = ("jax", "fallback") in ways(name)
    fallback_title = f' "fallback", {far:,} |' * has_fallback
    worst = np.nanmax([np.nanmax(found(p, framework, "hold")) for p in problems for framework in ("jax", "torch")])
    lines = [
        TITLE,
        "",
        textwrap.fill(
            f"It was meta-trained on runs of {horizon} steps. After them `l2o.load` and `l2o.torch.LearnedOptimizer` hold the "
            f"params, and warn. Of the runs below, {far:,} steps each, none so held ended worse than {worst:.3g} times its loss "
            f"at step {horizon}, in JAX or in PyTorch. {_GO_ON if has_fallback else ''}The table has losses over "
            f"that at step {horizon}: the geometric mean of the runs, and the worst of them (`experiments/measure_beyond.py`).",
            125,
            break_on_hyphens=False,
        ),
        "",
        f'| problem (runs) | rule, {2 * horizon:,} | rule, {far:,} |{fallback_title} "hold", {far:,} |',
        "|---|---|---|---|" + "---|" * has_fallback,
    ]
    for problem in problems:
        bare, hold = (found(problem, "jax", how) for how in (None, "hold"))
        fallback = [found(problem, "jax", "fallback")] if has_fallback else []
        cells = [_cell(bare[:, 0]), _cell(bare[:, 1]), *(_cell(x[:, 1]) for x in fallback), _cell(hold[:, 1])]
        title = f"its own, {problem}" if problem == own else problem
        lines.append(f"| {title} ({len(bare)}) | {' | '.join(cells)} |")
    card = path.with_suffix(".md")
    text = card.read_text().split(TITLE)
    rest = text[1].split("\n## ", 1)[1:] if len(text) > 1 else []
    write_whole(
        card,
        "\n".join([text[0].rstrip("\n"), "", *lines, *(["", f"## {rest[0].rstrip()}"] if rest else []), ""]).encode(),
    )
    print(f"{card.name}: worst held run {worst:.3g}")


def _cell(ratios):
    if np.isnan(ratios).any():
        return "not finite"
    return f"{np.exp(np.log(ratios).mean()):.3g} ({ratios.max():.3g})"


def main():
    """Measures what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(OTHERS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cards", action="store_true")
    arguments = parser.parse_args()
    if arguments.cards:
        for name in arguments.names:
            publish(name)
        return
    done = set()
    if RESULTS.exists() and not arguments.quick:
        with RESULTS.open() as file:
            done = {(r["optimizer"], r["problem"], r["framework"], r["beyond"], r["run"]) for r in csv.DictReader(file)}
    for name in arguments.names:
        horizon = l2o.pretrained.header(name)["recipe"]["horizon"]
        for title, family, own in problems(name, arguments.quick):
            for run in range(RUNS.get(name, 4) if own else 2):
                for framework, how in ways(name):
                    if (name, title, framework, how or "", str(run)) in done:
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
