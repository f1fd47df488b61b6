"""`l2o train`."""

from pathlib import Path

import jax
import jax.numpy as jnp

import l2o
from l2o.cli import _common
from l2o.cli._common import console
from l2o.core import plugins
from l2o.io.files import holding_its_folder
from l2o.meta.checkpoint import check_free


@holding_its_folder
def run(
    *,
    task,
    optimizer,
    optimizer_set,
    set_,
    init,
    estimator,
    horizon,
    truncation,
    num_tasks,
    batch_size,
    sample,
    split,
    num_steps,
    learning_rate,
    max_norm,
    average,
    validate_every,
    validation_tasks,
    checkpoint_every,
    folder: Path,
    resume,
    seed,
    cores,
) -> None:
    """Meta-trains, writes the weights, and compares them with a tuned Adam."""
    config = dict(locals())
    l2o.use_all_cores(cores)
    family, usual_horizon = _common.find_family(task, _common.parse_settings(set_))
    horizon = horizon or usual_horizon
    optimizer_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
    if init is not None:
        learned = l2o.load(init, beyond=None)
    else:
        learned = _common.build_optimizer(optimizer, optimizer_key, _common.parse_settings(optimizer_set))
    problem = l2o.InnerTraining(
        family,
        horizon,
        truncation,
        split=split,
        meta_gradient=None if sample is None else l2o.Sampled(sample),
    )
    options = {} if batch_size is None else {"batch_size": batch_size}
    estimate = plugins.get("estimators", estimator).build(problem, num_tasks, **options)
    if not resume:
        check_free(folder)  # before an old run's config.json is replaced
        _common.start_folder(folder, config)

    bar, on_step = _common.progress(num_steps, "meta-training")
    with bar:
        result = l2o.meta_train(
            learned,
            estimate,
            l2o.default_outer_optimizer(learning_rate, max_norm),
            num_steps=num_steps,
            key=train_key,
            validation=l2o.Validation(family, horizon, validation_tasks, validate_every),
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
    if not bool(jnp.isfinite(rows[0]["mean"])):
        console.print("The learned optimizer diverged on fresh tasks: do not use these weights.", style="red")
