"""Optimizers × task families × seeds: every baseline tuned by the same budget, everything recorded.

A cell is one optimizer on one panel: all trials on the tuning keys, the choice, and the runs of the chosen setting on the
test keys. Test keys are the same for all optimizers of a panel (same tasks, starts and minibatches) and are seen by no tuning.
All tuned baselines of a panel are one program, compiled once, which is told which of them to run. Programs are dealt out to the
devices, and cells are recorded as they finish (`l2o.evaluation.store`). A comparison that was stopped goes on from these, and
computes nothing twice.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray, UInt32

from l2o.core import keys as _keys
from l2o.core import parallel
from l2o.core import parallel as _devices
from l2o.core.checks import counts, kind
from l2o.core.curves import run_tasks
from l2o.core.finals import means_to_minimise
from l2o.core.measured import Curves
from l2o.core.optimizer import eval_params_of
from l2o.evaluation import contenders as _contenders
from l2o.evaluation import tuning
from l2o.evaluation.comparison_file import check_panel
from l2o.evaluation.contenders import Contender
from l2o.evaluation.contenders import check_name as check_name
from l2o.evaluation.contenders import refusal as refusal
from l2o.evaluation.panel import Panel
from l2o.evaluation.records import Comparison, Record
from l2o.evaluation.store import Store, gone
from l2o.evaluation.timing import step_costs
from l2o.evaluation.tuning import Search
from l2o.io.files import holding_its_folder

_NUM_IMAGES = 8  # of the first tasks, where the family makes images


@holding_its_folder
def compare(
    panels: Mapping[str, Panel],
    optimizers: Mapping[str, Any] | Sequence[str],
    *,
    key: PRNGKeyArray,
    num_tasks: int = 20,
    tune_tasks: int = 10,
    test_keys: Key[Array, " num_tasks"] | UInt32[Array, "num_tasks data"] | None = None,
    search: Search | None = None,
    measure_costs: bool = True,
    folder: str | Path | None = None,
    resume: bool = False,
    on_done: Callable[[str, str, Record], None] | None = None,
    devices: Sequence[parallel.Device] | None = None,
) -> Comparison:
    """Runs every optimizer on the same `num_tasks` tasks of every panel; baselines are tuned first, on other keys.

    **Arguments:**

    - `panels`: by name; a suite's (`l2o.evaluation.suites`) or your own: `{"mine": Panel(lambda: family, 100, 200, "ours")}`.
    - `optimizers`: names of baselines, and whatever `l2o.load` takes (shipped names, weights files, folders, "user/repo");
        or a mapping from a name of your choice to one of those, to a learned optimizer, to the result of `meta_train` or
        `distill` (its cost is then reported), or to any optax transformation, which is taken as it is. Weights that are named are
        held at their horizon, as by `l2o.load`; pass `l2o.load(name, beyond=None)` to see the rule go on. Only baselines are
        tuned, on `tune_tasks` tasks by `search`. Weights are warned of where gradients are far from those of their training.
        A panel whose params an optimizer refuses is recorded as left out.
    - `test_keys`: report on these keys, one a task, and not on `num_tasks` drawn from `key`: say on each of a finite set of
        tasks once (`l2o.tasks.style.each_picture`).
    - `measure_costs`: time a step of each, side by side, after all runs, so that losses are told by the second too.
    - `folder`: where to record; default nowhere. `resume`: go on with the comparison there; panels and optimizers may be new.
    - `on_done(panel, optimizer, record)` is called after each cell, from the thread that ran it.

    **Raises:** before anything is run: `ValueError` for names that do not exist, a baseline that minibatches would mislead on
    every panel (L-BFGS), an optimizer that refuses every panel's params, or a folder of a comparison with other settings,
    or with other optimizers or families under the same names; `FileExistsError` if the folder holds a comparison and
    `resume` is not set, `BlockingIOError` if one goes on in it; `FileNotFoundError` for data that are not there.
    """
    key, search = _keys.one(key), Search() if search is None else search
    kind("search", search, Search, "an `l2o.Search`, such as `l2o.Search(11, kind='random')`")
    kind("panels", panels, Mapping, "a mapping from names to panels, such as `l2o.evaluation.suites.convex.panels()`")
    test_keys = None if test_keys is None else _keys.typed(test_keys, "test_keys")
    counts(num_tasks=num_tasks, tune_tasks=tune_tasks)
    devices = _devices.chosen(devices)
    contenders = _contenders.contenders_of(optimizers)
    if not panels or not contenders:
        raise ValueError(f"A comparison needs panels and optimizers, got {len(panels)} and {len(contenders)}.")
    for name, panel in panels.items():
        expected = "a `Panel`, such as `l2o.Panel(lambda: family, horizon=100, run_to=200, source='ours')`"
        kind(f"panels[{name!r}]", panel, Panel, expected)
        check_panel(panel, f"The panel {name!r}")
    tune_key, test_key = jax.random.split(key)
    drawn = jax.random.split(test_key, num_tasks) if test_keys is None else test_keys
    keys = (jax.random.split(tune_key, tune_tasks), drawn)
    trials = search.trials(_keys.of_trials(tune_key))
    families = {name: panel.make() for name, panel in panels.items()}
    left_out = _contenders.not_applicable(families, contenders, key)
    settings = _settings(key, len(drawn), tune_tasks, search)
    if test_keys is not None:
        settings["test_keys"] = np.asarray(jax.random.key_data(test_keys)).tolist()
    store = None
    if folder is not None:
        described = {name: _contenders.described(contender) for name, contender in contenders.items()}
        store = Store(
            Path(folder), resume, panels, described, settings, left_out, _contenders.fingerprints(families, contenders)
        )
    cells = [(p, n) for p in panels for n in contenders if n not in left_out[p]]
    records = {cell: record for cell in cells if store and (record := store.read(*cell)) is not None}

    def run(program, device):
        p, names = program
        group = {n: contenders[n] for n in names}
        missing = [n for n in names if (p, n) not in records]
        for name, record in _run(panels[p], group, missing, families[p], trials, search, *keys, device):
            if store:
                store.write(p, name, record)
            records[p, name] = record
            if on_done is not None:
                on_done(p, name, record)

    _contenders.warn_of_scale(families, contenders, set(cells) - set(records), keys[1][:4])
    _contenders.warn_of_horizon(panels, contenders, set(cells) - set(records))
    programs = [(p, names) for p, names in _programs(cells, contenders) if any((p, n) not in records for n in names)]
    _work_off(programs, run, devices)
    measured = {}
    for p, panel in panels.items() if measure_costs else ():
        names = [n for n in contenders if (p, n) in records]
        measured[p] = store.read_costs(p) if store else {}
        if set(names) - set(measured[p]):  # side by side, so all again if one is new
            built = {n: contenders[n].built(search, panel.horizon, records[p, n].tuned) for n in names}
            measured[p] = step_costs(built, families[p], key=test_key)
            if store:
                store.write_costs(p, measured[p])
    return Comparison(
        panels=dict(panels),
        optimizers=tuple(contenders),
        records={p: {n: records[p, n] for n in contenders if (p, n) in records} for p in panels},
        left_out=left_out,
        costs=measured,
        meta_training={n: c.meta_training for n, c in contenders.items() if c.meta_training},
        settings=settings,
    )


def _programs(cells, contenders) -> list[tuple[str, list[str]]]:
    """What is compiled together: a panel's tuned baselines; every other optimizer for itself."""
    programs = {}
    for panel, name in cells:
        shared = contenders[name].is_tuned and eval_params_of(contenders[name].baseline.make(1.0)) is None
        programs.setdefault((panel, None if shared else name), []).append(name)
    return [(panel, names) for (panel, _), names in programs.items()]


def _work_off(programs, run, devices) -> None:
    """Every program on the next free device, one thread for each; the first error stops the rest."""
    waiting = queue.SimpleQueue()
    for program in programs:
        waiting.put(program)
    stop = threading.Event()

    def worker(device):
        while not stop.is_set():
            try:
                panel, names = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                run((panel, names), device)
            except BaseException as error:
                stop.set()
                error.add_note(f"while running {', '.join(names)} on {panel}")
                raise

    with ThreadPoolExecutor(len(devices)) as pool:
        workers = [pool.submit(worker, device) for device in devices]
        try:
            for done in workers:
                done.result()
        finally:  # on Ctrl-C too: programs that run finish and are recorded
            stop.set()


def _run(panel: Panel, contenders: dict[str, Contender], missing, family, trials, search, tune_keys, test_keys, device):
    """Yields the records of those `missing` of the optimizers of one program, one after the other, on one device.

    The program is that of all of them, so that one run later has the same bits as it would have had at first.
    """
    tuned = next(iter(contenders.values())).is_tuned
    makes = tuple(search.make(c.baseline, panel.horizon) for c in contenders.values()) if tuned else None
    grid = tuning.on_device(trials) if tuned else None
    cell = parallel.jit_for_now(_cell)
    for name in missing:
        contender, index = contenders[name], list(contenders).index(name)
        started = time.perf_counter()
        optimizer = None if tuned else contender.built(search, panel.horizon, None)
        arguments = parallel.put((jnp.asarray(index), grid, optimizer, family, tune_keys, test_keys), device)
        runs, losses, metrics = jax.tree.map(np.asarray, cell(makes, panel._replace(make=gone), *arguments))
        images = metrics.pop("image", None)
        if images is not None:  # what has diverged is black
            images = np.clip(np.where(np.isfinite(images), images, 0.0), 0.0, 1.0)[:_NUM_IMAGES]
        yield (
            name,
            Record(
                Curves(losses, metrics),
                tuning.chosen(trials, runs) if tuned else None,
                contender.learned,
                images,
                time.perf_counter() - started,
            ),
        )


def _cell(makes, panel, index, grid, optimizer, family, tune_keys, test_keys):
    runs = None
    if makes is not None:

        def make(trial):
            rules = [make(trial) for make in makes]
            return rules[0] if len(rules) == 1 else tuning.one_of(index, rules)

        options = {"horizon": panel.horizon, "final_steps": panel.window, "batch_size": panel.batch_size}
        runs = tuning.final_losses(make, grid, family, tune_keys, **options)
        optimizer = make(jax.tree.map(lambda x: x[jnp.argmin(means_to_minimise(runs))], grid))
    options = {
        "horizon": panel.run_to,
        "batch_size": panel.batch_size,
        "metrics_splits": panel.metrics_splits,
        "images": True,
    }
    return runs, *run_tasks(optimizer, family, test_keys, **options)


def _settings(key, num_tasks, tune_tasks, search) -> dict[str, Any]:
    return {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "num_tasks": num_tasks,
        "tune_tasks": tune_tasks,
        "search": json.loads(json.dumps({k: getattr(search, k) for k in search.__dataclass_fields__})),
        "precision": jnp.finfo(jnp.zeros(()).dtype).bits,  # that JAX computes in
    }
