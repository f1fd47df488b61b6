"""`l2o train`."""

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import typer

import l2o
from l2o.cli import _common, _teaching
from l2o.cli._common import Cores, Seed, Set, TaskName, console
from l2o.core import plugins
from l2o.core.checks import counts
from l2o.io.files import holding_its_folder
from l2o.meta.checkpoint import check_free


@holding_its_folder
def train(
    task: TaskName,
    optimizer: Annotated[str, typer.Option(help="Architecture to train (see `l2o optimizers`).")] = "lstm",
    optimizer_set: Annotated[
        list[str] | None,
        typer.Option("--optimizer-set", "-o", help="Argument of the architecture, as name=value, e.g. -o preset=code."),
    ] = None,
    set_: Set = None,
    init: Annotated[
        str | None, typer.Option(help="Start from these weights: a shipped name, a file, a folder or user/repo.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Whom to imitate first: tuned (the better of tuned Adam and NAG), a baseline, which is tuned, weights, or none. "
            "Default: tuned; with --init, none."
        ),
    ] = None,
    imitation_steps: Annotated[int, typer.Option(help="Meta-steps of imitation.")] = 1000,
    estimator: Annotated[str, typer.Option(help="Meta-gradient estimator: bptt or pes.")] = "bptt",
    horizon: Annotated[int | None, typer.Option(help="Inner steps an episode. Default: the task's own.")] = None,
    truncation: Annotated[
        int | None,
        typer.Option(help="Inner steps a meta-gradient; must divide the horizon. Default: the divisor closest to 20."),
    ] = None,
    num_tasks: Annotated[int, typer.Option(help="Tasks in a meta-batch.")] = 64,
    batch_size: Annotated[
        int | None, typer.Option(help="Tasks run at once on a core; fewer is faster for networks. Default: all.")
    ] = None,
    sample: Annotated[
        float | None, typer.Option(help="Fraction of coordinates to sample for the meta-gradient, in (0, 1].")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the meta-loss: train, or outer (larger batches).")] = "train",
    balance: Annotated[
        bool, typer.Option(help="After imitation, weigh steps so that late, small losses count as much as early ones.")
    ] = True,
    num_steps: Annotated[int, typer.Option(help="Meta-steps.")] = 1000,
    learning_rate: Annotated[float, typer.Option(help="Adam's learning rate for the meta-parameters.")] = 1e-3,
    max_norm: Annotated[float, typer.Option(help="Clip the meta-gradient to this norm.")] = 0.1,
    average: Annotated[
        float, typer.Option(help="Decay of an exponential average of the meta-parameters, which is kept; 0: none.")
    ] = 0.98,
    validate_every: Annotated[int, typer.Option(help="Meta-steps between validations.")] = 100,
    validation_tasks: Annotated[
        int, typer.Option(help="Fixed validation tasks; the best optimizer on them is kept.")
    ] = 16,
    checkpoint_every: Annotated[int, typer.Option(help="Meta-steps between checkpoints.")] = 100,
    folder: Annotated[Path, typer.Option(help="Where the run goes.")] = Path("runs/train"),
    resume: Annotated[bool, typer.Option(help="Go on with the run in --folder.")] = False,
    seed: Seed = 0,
    cores: Cores = None,
) -> None:
    """The rule first learns to propose what a teacher does (start.safetensors), then to make losses small.

    The folder gets config.json, metrics.jsonl, TensorBoard events, checkpoints, weights.safetensors and curves.png.
    """
    teacher = teacher or (_teaching.TUNED if init is None else _teaching.NONE)
    config = dict(locals())
    l2o.use_all_cores(cores)
    family, usual_horizon = _common.find_family(task, _common.parse_settings(set_))
    horizon = horizon or usual_horizon
    truncation = truncation or _usual_truncation(horizon)
    optimizer_key, train_key, test_key, teacher_key = jax.random.split(jax.random.key(seed), 4)
    if init is not None:
        learned = l2o.load(init, beyond=None)
    else:
        learned = _common.build_optimizer(optimizer, optimizer_key, _common.parse_settings(optimizer_set))

    def estimate(step_weights=None):
        problem = l2o.InnerTraining(
            family,
            horizon,
            truncation,
            step_weights=step_weights,
            split=split,
            meta_gradient=None if sample is None else l2o.Sampled(sample),
        )
        options = {} if batch_size is None else {"batch_size": batch_size}
        return plugins.get("estimators", estimator).build(problem, num_tasks, **options)

    outer_opt = l2o.default_outer_optimizer(learning_rate, max_norm)
    validation = l2o.Validation(family, horizon, validation_tasks, validate_every)
    # Mistakes are told before the imitation, which takes a while.
    l2o.MetaTraining(estimate(), outer_opt, average=average)
    counts(num_steps=num_steps, imitation_steps=imitation_steps, checkpoint_every=checkpoint_every)
    if not resume:
        check_free(folder)  # before an old run's config.json is replaced
        _common.start_folder(folder, config)
    step_weights = None
    if teacher != _teaching.NONE:
        asked = _teaching.Asked(teacher, imitation_steps, optimizer, _common.parse_settings(optimizer_set), init)
        start = folder / "start.safetensors"
        begun = _teaching.started(learned, asked, family, horizon, start, key=teacher_key, resume=resume)
        learned, step_weights = begun.optimizer, begun.step_weights if balance else None

    bar, on_step = _common.progress(num_steps, "meta-training")
    with bar:
        result = l2o.meta_train(
            learned,
            estimate(step_weights),
            outer_opt,
            num_steps=num_steps,
            key=train_key,
            validation=validation,
            average=average,
            folder=folder,
            resume=resume,
            checkpoint_every=checkpoint_every,
            on_step=on_step,
        )
    weights = folder / "weights.safetensors"
    recipe = {
        "task": task,
        "task_arguments": _common.parse_settings(set_),
        "horizon": horizon,
        "truncation": truncation,
        "num_tasks": num_tasks,
        "num_steps": result.num_steps,
        "num_skipped": result.num_skipped,
        "num_episodes": result.num_episodes,
        "num_inner_steps": result.num_inner_steps,
        "teacher": teacher,
        "balanced": step_weights is not None,
        "learning_rate": learning_rate,
        "average": average,
        "seed": seed,
        "seconds": round(result.seconds),
        "best_validation_loss": result.best_score,
    }
    if ":" in optimizer and init is None:
        console.print("Weights of your own architecture are in the last checkpoint only.", style="yellow")
    else:
        l2o.pretrained.save(weights, result.optimizer, recipe=recipe, family=family)
        console.print(f"Weights: {weights}  ({_common.shell('l2o', 'compare', task, weights, 'adam')})", soft_wrap=True)
    from l2o import report
    from l2o.evaluation import analysis, comparison

    window = max(1, horizon // 10)
    with console.status("Comparing with tuned Adam on fresh tasks ..."):
        panels = {task: l2o.Panel(lambda: family, horizon, horizon, task, window)}
        contenders = {"learned": result, "adam": "adam"}
        results = comparison.compare(panels, contenders, key=test_key, measure_costs=False).records[task]
    rows = analysis.rows(results, [horizon], window)
    console.print(report.table(rows, title=f"Loss on {rows[0]['num_tasks']} fresh tasks, mean and 95 % interval"))
    console.print(f"Curves: {report.figure({task: results}, folder / 'curves.png', window=window)}", soft_wrap=True)
    best, ratio, low, high = analysis.ratio_to_best(results, "learned", horizon, window)
    if not bool(jnp.isfinite(rows[0]["mean"])):
        console.print("The learned optimizer diverged on fresh tasks: do not use these weights.", style="red")
    elif ratio > 1:
        console.print(
            f"It loses to tuned {best}: its loss is {ratio:.3g} times as large ({low:.3g} to {high:.3g}). "
            f"{_common.shell('l2o', 'design', task)} searches rules that cost what Adam costs, and says which one wins.",
            style="yellow",
            soft_wrap=True,
        )


def _usual_truncation(horizon):
    """The divisor of the horizon that is closest to 20, in the logarithm; the larger of two."""
    divisors = [n for n in range(1, horizon + 1) if horizon % n == 0]
    return min(reversed(divisors), key=lambda n: max(n / 20, 20 / n))
