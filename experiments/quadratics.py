"""The paper's quadratics, with the two architectures of its appendix: python experiments/quadratics.py

Andrychowicz et al. 2016, section 3.1 (10-dimensional Gaussian quadratics) and appendix B: an LSTM with global averaging
cells, and NTM-BFGS with its full memory and with the last pairs only. Beside them stand the shipped `lstm-quadratic`, the
paper's baselines (SGD, NAG, RMSprop, Adam), L-BFGS, and conjugate gradients, which know that the problem is quadratic and
see products with its Hessian: a line to look at rather than a contender. Nothing here was imitated; what stands in a teacher's
place is "searched momentum", an annealed rule of nine constants at Adam's price, found by search_teacher.py on these quadratics.

    python experiments/quadratics.py --train lstm-gac-quadratic   # writes results/*.safetensors; 5 minutes of one core
    python experiments/quadratics.py --train ntm-bfgs-quadratic   # the same; 6 minutes of one core
    python experiments/quadratics.py                              # measures those weights; ten minutes of a busy core
    python experiments/quadratics.py --quick                      # trains both briefly, measures, publishes nothing; two minutes

The paper's baselines are tuned on other tasks for 10, 20, 50 and 100 steps: "the best at step 10" is one tuned for step 10
(the one at 200 is tuned for 100). Adam and NAG with a schedule (`_baselines`) have as many settings to choose from, and then ten
times as many and their momentum too. Ratios with 95 % intervals over the same tasks are printed, and published as
quadratics-steps.csv. Seed 1 of everything. Meta-training that was stopped goes on from --folder (default runs/quadratics).
"""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import _baselines
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _baselines import Budget
from _publish import RESULTS, publish, write_rows
from _teacher import by_annealing

import l2o
from l2o.evaluation import analysis, comparison
from l2o.evaluation.suites import paper
from l2o.io.files import write_whole
from l2o.meta.estimators.bptt import BPTT
from l2o.meta.problems import AbstractInnerProblem
from l2o.optimizers import lstm, ntm_bfgs
from l2o.tasks import quadratic

GAC, NTM = "lstm-gac-quadratic", "ntm-bfgs-quadratic"
NUM_TASKS = 128  # of a meta-step
EARLIER = (10, 20, 50)  # steps before the paper's 100
# The three decades around each rule's best constant rate; those of the others are five.
RATES = {"adam": (1e-2, 10.0), "nag": (1e-3, 1.0)}
SAME = Budget(21, RATES)
LARGER = Budget(210, RATES, momenta=(0.5, 0.8, 0.9, 0.95))
SEARCHED = RESULTS / "teacher-quadratic.json"
PAIRS = 30  # of the low-rank memory: three a step, the last ten steps


def conjugate_gradients() -> optax.GradientTransformationExtraArgs:
    r"""Linear conjugate gradients (Hestenes & Stiefel 1952) for a quadratic of Hessian $A$, with exact step lengths.

    $d \leftarrow -\nabla + \frac{|\nabla|^2}{|\nabla'|^2}\, d$, $u = -\frac{\nabla^\top d}{d^\top A d}\, d$, with $A d$ by a
    Jacobian-vector product of the gradient: one more pass than a gradient, and more than the other rules may see.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return zeros, jnp.zeros(())

    def update(updates, state, params=None, **extra):
        gradient, value_fn = updates, extra["value_fn"]
        direction, last_square = state
        square = _dot(gradient, gradient)
        factor = jnp.where(last_square > 0, square / jnp.where(last_square > 0, last_square, 1.0), 0.0)
        direction = jax.tree.map(lambda g, d: factor * d - g, gradient, direction)
        _, product = jax.jvp(jax.grad(value_fn), (params,), (direction,))
        curvature = _dot(direction, product)
        length = -_dot(gradient, direction) / jnp.where(curvature > 0, curvature, 1.0)
        length = jnp.where(curvature > 0, length, 0.0)  # converged to the last bit
        return jax.tree.map(lambda d: length * d, direction), (direction, square)

    return optax.GradientTransformationExtraArgs(init, update)


def _dot(a, b):
    return jnp.asarray(optax.tree.vdot(a, b))


class LogLoss(l2o.AbstractTask):
    """A quadratic whose meta-loss (split "outer") is the log of its loss: each factor of ten counts alike, on every task.

    The mean loss is made by the few ill-conditioned tasks, and says nothing of whether the others converge.
    """

    task: l2o.AbstractTask

    def init(self, key):
        return self.task.init(key)

    def loss(self, params, key, *, split="train"):
        loss = self.task.loss(params, key)
        return jnp.log(loss + 1e-6) if split == "outer" else loss  # losses start near 10


@jax.custom_vjp
def _clipped(arrays):
    return arrays


def _clip(_, gradient):
    factor = jnp.minimum(1.0, 1 / (optax.tree.norm(gradient) + jnp.finfo(jnp.float32).tiny))
    return (jax.tree.map(lambda g: factor * g, gradient),)


_clipped.defvjp(lambda arrays: (arrays, None), _clip)


class EachClipped(AbstractInnerProblem):
    """Every task's meta-gradient clipped to norm 1: those through a memory that ran away would drown all others."""

    problem: l2o.InnerTraining

    @property
    def horizon(self):
        return self.problem.horizon

    @property
    def truncation(self):
        return self.problem.truncation

    def init(self, optimizer, key):
        return self.problem.init(optimizer, key)

    def advance(self, optimizer, state):
        arrays, static = eqx.partition(optimizer, eqx.is_inexact_array)
        return self.problem.advance(eqx.combine(_clipped(arrays), static), state)

    def finished(self, state):
        return self.problem.finished(state)


class Stage(NamedTuple):
    """A part of a meta-training: Adam at `rate`, cosine-decayed to a fiftieth, behind a clip of the mean meta-gradient."""

    problem: Any
    num_steps: int
    rate: float
    max_norm: float


def recipe(name, key, quick):
    """What is meta-trained, and the stages."""
    family, short = quadratic.family(), 20 if quick else 1
    if name == GAC:
        problem = l2o.InnerTraining(family, 100, 20)
        return lstm.build(key, preset="raw", num_global=5), [Stage(problem, 1000 // short, 1e-2, 0.1)]
    # Through five steps only: the meta-gradients of whole runs of 20 or 25 steps are noise (LOG.md).
    problems = [EachClipped(l2o.InnerTraining(lambda k: LogLoss(family(k)), t, 5, split="outer")) for t in (25, 100)]
    return ntm_bfgs.build(key, num_layers=1), [
        Stage(problems[0], 1200 // short, 2e-3, 1.0),
        Stage(problems[1], 1400 // short, 1e-3, 1.0),
    ]


def train(name, path, folder, *, seed, quick):
    """Meta-trains `name` and writes the weights, with how they were made. Goes on with what is in `folder`."""
    init_key, train_key, _ = jax.random.split(jax.random.key(seed), 3)
    optimizer, stages = recipe(name, init_key, quick)
    done = []
    for index, stage in enumerate(stages):
        last = index == len(stages) - 1
        stage_folder = folder / f"stage-{index}"
        done.append(
            l2o.meta_train(
                optimizer,
                BPTT(stage.problem, NUM_TASKS),
                l2o.default_outer_optimizer(
                    optax.cosine_decay_schedule(stage.rate, stage.num_steps, 0.02), stage.max_norm
                ),
                num_steps=stage.num_steps,
                key=train_key if index == 0 else jax.random.fold_in(train_key, index),
                validation=l2o.Validation(quadratic.family(), 100, num_tasks=512, every=100, final_steps=1)
                if last
                else None,
                folder=stage_folder,
                resume=stage_folder.exists(),
                on_step=lambda row: row["step"] % 100 == 0 and print(row, flush=True),
            )
        )
        optimizer = done[-1].optimizer
    l2o.pretrained.save(
        path,
        optimizer,
        recipe={
            "task": "quadratic",
            "task_arguments": {},
            "horizon": stages[-1].problem.horizon,
            "truncation": stages[-1].problem.truncation,
            "estimator": "bptt",
            "meta_loss": "mean loss"
            if name == GAC
            else "mean log (loss + 1e-6), each task's meta-gradient clipped to norm 1",
            "stages": [
                {"horizon": s.problem.horizon, "num_steps": s.num_steps, "rate": s.rate, "max_norm": s.max_norm}
                for s in stages
            ],
            "num_tasks": NUM_TASKS,
            "num_steps": sum(r.num_steps for r in done),
            "num_episodes": sum(r.num_episodes for r in done),
            "num_inner_steps": sum(r.num_inner_steps for r in done),
            "num_skipped": sum(r.num_skipped for r in done),
            "num_diverged": sum(r.num_diverged for r in done),
            "best_validation_loss": done[-1].best_score,
            "seed": seed,
            "seconds": round(sum(r.seconds for r in done)),
            "machine": "CPU, one busy core",
            "command": f"python experiments/quadratics.py --train {name}",
        },
    )
    print(f"{name}: {sum(r.seconds for r in done):.0f} s; weights in {path}", flush=True)


def with_pairs(optimizer: ntm_bfgs.NTMBFGS, num_pairs: int) -> ntm_bfgs.NTMBFGS:
    """The same meta-parameters, with a memory of the last pairs."""
    arguments = l2o.pretrained.as_dict(optimizer)["arguments"] | {"memory_pairs": num_pairs}
    other = ntm_bfgs.build(jax.random.key(0), **arguments)
    return eqx.tree_at(
        lambda o: (o.cells, o.readout, o.bias), other, (optimizer.cells, optimizer.readout, optimizer.bias)
    )


def measure(weights, folder, *, num_tasks, seed, quick):
    """All contenders on the paper's panel, its baselines tuned for fewer steps too, and the ratios to the best of them."""
    panel = paper.panels()["quadratic"]
    if quick:
        panel = panel._replace(horizon=50, run_to=50)
    memory = l2o.load(weights[NTM])
    assert isinstance(memory, ntm_bfgs.NTMBFGS)
    baselines = {name: name for name in l2o.baselines.PAPER_BASELINES}
    contenders = {
        "lstm-quadratic": "lstm-quadratic",
        GAC: str(weights[GAC]),
        NTM: str(weights[NTM]),
        f"{NTM}, last {PAIRS} pairs": with_pairs(memory, PAIRS),
        **baselines,
        "lbfgs": "lbfgs",
        "conjugate gradients": conjugate_gradients(),
        "searched momentum": by_annealing(json.loads(SEARCHED.read_text())["constants"]),
    }
    options: dict[str, Any] = {
        "key": jax.random.split(jax.random.key(seed), 3)[2],
        "num_tasks": num_tasks,
        "tune_tasks": max(16, num_tasks // 8),
        "on_done": lambda panel, name, record: print(f"{panel}: {name}, {record.seconds:.0f} s", flush=True),
    }
    search = l2o.Search(21)
    found = comparison.compare(
        {"quadratic": panel}, contenders, search=search, folder=folder, resume=folder.exists(), **options
    )
    # The same tasks, so the runs of rules that are not tuned serve at every step.
    shorter = {f"tuned for {t} steps": panel._replace(horizon=t, run_to=t) for t in EARLIER if t < panel.horizon}
    tuned = comparison.compare(shorter, baselines, search=search, measure_costs=False, **options).records
    table = []
    for step in sorted({*EARLIER, panel.horizon, panel.run_to}):
        if step <= panel.run_to:
            table += ratios(found.records["quadratic"] | tuned.get(f"tuned for {step} steps", {}), step)
    text = io.StringIO()
    writer = csv.DictWriter(text, table[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    print(text.getvalue(), flush=True)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        write_whole(RESULTS / "quadratics-steps.csv", text.getvalue().encode())
    beside = []
    for note, budget in (("", SAME), (f", {LARGER.num_trials} trials", LARGER)):
        beside += _baselines.compare({"quadratic": panel}, budget, folder / "scheduled", note=note, **options)
    publish(folder, "quadratics", quick=quick, beside=beside, teachers={"lstm-quadratic": "searched momentum"})
    if not quick:
        write_rows(RESULTS / "quadratics-by-group.csv", _baselines.settings(folder / "scheduled"))


def ratios(records, step):
    """Mean and median loss at `step`, and the mean's ratio to that of the best of the paper's baselines."""
    for name, record in records.items():
        losses = analysis.loss_at(record, step)
        finite = bool(np.isfinite(losses).all())
        low, high = l2o.bootstrap_interval(losses) if finite else (None, None)
        best, *ratio = analysis.ratio_to_best(records, name, step, names=l2o.baselines.PAPER_BASELINES)
        yield {
            "step": step,
            "optimizer": name,
            "num_tasks": len(losses),
            "rate": record.tuned.rate if record.tuned else None,
            "mean": float(losses.mean()),
            "mean_low": low,
            "mean_high": high,
            "median": float(np.median(losses)),
            "num_diverged": int((~np.isfinite(losses)).sum()),
            "best_of_paper": best,
            **dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True)),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="short meta-training, 64 tasks, 50 steps; nothing is published"
    )
    parser.add_argument(
        "--train", choices=[GAC, NTM], help="meta-train this one and write its weights, measure nothing"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/quadratics"))
    parser.add_argument("--num-tasks", type=int, default=1024)
    parser.add_argument("--cores", type=int)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    l2o.use_all_cores(arguments.cores)
    suffix = "-quick" if arguments.quick else ""
    to = arguments.folder if arguments.quick else RESULTS
    to.mkdir(parents=True, exist_ok=True)
    weights = {name: to / f"{name}.safetensors" for name in (GAC, NTM)}
    for name in weights if arguments.quick else filter(None, [arguments.train]):
        train(name, weights[name], arguments.folder / f"{name}{suffix}", seed=arguments.seed, quick=arguments.quick)
    if arguments.train is None:
        num_tasks = 64 if arguments.quick else arguments.num_tasks
        folder = arguments.folder / f"compared{suffix}"
        measure(weights, folder, num_tasks=num_tasks, seed=arguments.seed, quick=arguments.quick)


if __name__ == "__main__":
    main()
