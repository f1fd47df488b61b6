"""Optimizers × task families × seeds: every baseline tuned by the same budget, everything recorded.

A cell is one optimizer on one panel: all trials on the tuning keys, the choice, and the runs of the chosen setting on the
test keys. Test keys are the same for all optimizers of a panel (same tasks, starts and minibatches) and are seen by no tuning.
All tuned baselines of a panel are one program, compiled once, which is told which of them to run. Programs are dealt out to the
devices, and cells are recorded as they finish (`l2o.results`). A comparison that was stopped goes on from these, and computes
nothing twice.
"""

import json
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key, PRNGKeyArray, UInt32

from l2o.core import keys as _keys
from l2o.core import parallel, scale
from l2o.core import parallel as _devices
from l2o.core.checks import counts, kind
from l2o.core.curves import Curves, run_tasks
from l2o.core.optimizer import check_optimizer, eval_params_of, silenced
from l2o.core.task import TaskFamily, is_deterministic
from l2o.evaluation import costs, tuning
from l2o.evaluation.costs import MetaTraining
from l2o.evaluation.panel import Panel
from l2o.evaluation.records import Comparison, Record, Store, check_panel, gone
from l2o.evaluation.tuning import Search, Tuned
from l2o.io import weights as _weights
from l2o.io.files import holding_its_folder
from l2o.io.fingerprint import Fingerprints, Unfingerprintable
from l2o.io.horizon import passed
from l2o.meta.train import MetaTrained
from l2o.optimizers import baselines, pretrained
from l2o.optimizers.baselines import Baseline
from l2o.optimizers.wrappers.beyond import horizon_of

_NUM_IMAGES = 8  # of the first tasks, where the family makes images


class _Contender(NamedTuple):
    optimizer: Any = None  # learned, or an optax transformation taken as it is
    baseline: Baseline | None = None
    learned: bool = False
    meta_training: MetaTraining | None = None
    scale: dict[str, Any] | None = None  # of the gradients that weights were meta-trained on

    @property
    def is_tuned(self) -> bool:
        return self.baseline is not None and self.baseline.tuned

    def built(self, search: Search, horizon: int, tuned: Tuned | None):
        if self.baseline is None:
            return self.optimizer
        return search.make(self.baseline, horizon)(tuned.value) if tuned else self.baseline.make(None)


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

    - `panels`: by name; a suite's (`l2o.suites`) or your own: `{"mine": Panel(lambda: family, 100, 200, "ours")}`.
    - `optimizers`: names of baselines, and whatever `l2o.load` takes (shipped names, weights files, folders, "user/repo");
        or a mapping from a name of your choice to one of those, to a learned optimizer, to the result of `meta_train` (its
        cost is then reported), or to any optax transformation, which is taken as it is. Weights that are named are held at
        their horizon, as by `l2o.load`; pass `l2o.load(name, beyond=None)` to see the rule go on. Only baselines are tuned, on
        `tune_tasks` tasks by `search`. Weights are warned of where gradients are far from those of their training.
        A panel whose params an optimizer refuses is recorded as left out.
    - `test_keys`: report on these keys, one a task, and not on `num_tasks` drawn from `key`: say on each of a finite set of
        tasks once (`l2o.tasks.style.each_picture`).
    - `measure_costs`: time a step of each, side by side, after all runs.
    - `folder`: where to record; default nowhere. `resume`: go on with the comparison there; panels and optimizers may be new.
    - `on_done(panel, optimizer, record)` is called after each cell, from the thread that ran it.

    **Raises:** before anything is run: `ValueError` for names that do not exist, a baseline that minibatches would mislead on
    every panel (L-BFGS), an optimizer that refuses every panel's params, or a folder of a comparison with other settings,
    or with other optimizers or families under the same names; `FileExistsError` if the folder holds a comparison and
    `resume` is not set, `BlockingIOError` if one goes on in it; `FileNotFoundError` for data that are not there.
    """
    key, search = _keys.one(key), Search() if search is None else search
    kind("search", search, Search, "an `l2o.Search`, such as `l2o.Search(11, kind='random')`")
    kind("panels", panels, Mapping, "a mapping from names to panels, such as `l2o.suites.convex.panels()`")
    test_keys = None if test_keys is None else _keys.typed(test_keys, "test_keys")
    counts(num_tasks=num_tasks, tune_tasks=tune_tasks)
    devices = _devices.chosen(devices)
    contenders = _contenders(optimizers)
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
    left_out = _not_applicable(families, contenders, key)
    settings = _settings(key, len(drawn), tune_tasks, search)
    if test_keys is not None:
        settings["test_keys"] = np.asarray(jax.random.key_data(test_keys)).tolist()
    store = None
    if folder is not None:
        described = {name: _described(contender) for name, contender in contenders.items()}
        store = Store(Path(folder), resume, panels, described, settings, left_out, _fingerprints(families, contenders))
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

    _warn_of_scale(families, contenders, set(cells) - set(records), keys[1][:4])
    _warn_of_horizon(panels, contenders, set(cells) - set(records))
    programs = [(p, names) for p, names in _programs(cells, contenders) if any((p, n) not in records for n in names)]
    _work_off(programs, run, devices)
    measured = {}
    for p, panel in panels.items() if measure_costs else ():
        names = [n for n in contenders if (p, n) in records]
        measured[p] = store.read_costs(p) if store else {}
        if set(names) - set(measured[p]):  # side by side, so all again if one is new
            built = {n: contenders[n].built(search, panel.horizon, records[p, n].tuned) for n in names}
            measured[p] = costs.measure(built, families[p], key=test_key)
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


def check_name(name: str) -> None:
    """Makes sure that `compare` knows an optimizer by this name: a baseline, or whatever `l2o.load` takes.

    Only "user/repo" that is no path here is looked for on the Hugging Face Hub, and fetched into its cache.

    **Raises:** `ValueError` saying which there are, or what is wrong with a file, folder or repository; `ImportError` if
    the extra for the Hub is needed and missing.
    """
    if name in baselines.BASELINES or name in pretrained.names():
        return
    if not _weights.is_elsewhere(name):
        raise ValueError(
            f"No optimizer named {name!r}. Pretrained: {', '.join(pretrained.names())}. Baselines: "
            f"{', '.join(baselines.BASELINES)}. Or pass a weights file, a folder with one, or user/repo on the Hugging Face Hub."
        )
    pretrained.header(name)


def _contenders(optimizers: Mapping[str, Any] | Iterable[str]) -> dict[str, _Contender]:
    if not isinstance(optimizers, Mapping):
        expected = "names in a list, such as ['adam'], or a mapping from names to optimizers"
        single = isinstance(
            optimizers, str | Baseline | optax.GradientTransformation
        )  # which can be iterated over, too
        kind("optimizers", optimizers, () if single else Iterable, expected)
        optimizers = {name: name for name in optimizers}
        for name in optimizers:
            kind("optimizers", name, str | Path, "named, or else in a mapping from a name of your choice to each")
    return {name: _contender(name, value) for name, value in optimizers.items()}


def _contender(name, value):
    if isinstance(value, Baseline):
        return _Contender(baseline=value)
    if isinstance(value, MetaTrained):
        cost = MetaTraining(value.seconds, value.num_episodes, value.num_inner_steps)
        return _Contender(value.optimizer, learned=True, meta_training=cost)
    if not isinstance(value, str | Path):
        check_optimizer(f"optimizers[{name!r}]", value)
        value = silenced(value)  # under whatever name it was loaded, it is the same rule
        return _Contender(value, learned=bool(jax.tree.leaves(eqx.filter(value, eqx.is_inexact_array))))
    if value in baselines.BASELINES:
        return _Contender(baseline=baselines.get(str(value)))
    check_name(str(value))
    told = pretrained.header(value)
    cost = MetaTraining.from_recipe(told["recipe"])
    return _Contender(silenced(pretrained.load(value)), learned=True, meta_training=cost, scale=told.get("scale"))


def _warn_of_scale(families, contenders, missing, keys) -> None:
    """Looks at the first gradients of panels that weights are still to be run on."""
    for panel, family in families.items():
        names = [n for n, c in contenders.items() if c.scale and (panel, n) in missing]
        if names:
            found = float(np.median(scale.at_start(family, keys)))
            for name in names:
                _weights.warn_of_scale(f"{name} (on {panel})", contenders[name].scale, found, stacklevel=4)


def _warn_of_horizon(panels, contenders, missing) -> None:
    """Panels that judge at a later step than the optimizer was meta-trained for: from there on its curve is a level line."""
    for panel, it in panels.items():
        for name in (n for n in contenders if (panel, n) in missing):
            horizon = horizon_of(contenders[name].optimizer)
            if horizon is not None and it.horizon > horizon:
                warnings.warn(passed(f"{name} (on {panel})", horizon, "hold"), UserWarning, stacklevel=4)


def _not_applicable(families, contenders, key) -> dict[str, dict[str, str]]:
    wants_line_search = any(c.baseline and c.baseline.deterministic_only for c in contenders.values())
    left_out = {}
    for panel, family in families.items():
        noisy = wants_line_search and not is_deterministic(family, key)
        left_out[panel] = {n: why for n, c in contenders.items() if (why := _why_not(c, family, noisy, key))}
    for name in contenders:
        if families and all(name in reasons for reasons in left_out.values()):
            why = next(iter(left_out.values()))[name]
            raise ValueError(f"{name} {why}. Leave it out.")
    return left_out


def _why_not(contender, family, noisy, key) -> str | None:
    if contender.baseline is None:
        return refusal(contender.optimizer, family, key)
    if contender.baseline.deterministic_only and noisy:
        return "needs a deterministic loss for its line search, but this task's loss depends on its key (minibatches)"
    return None


def refusal(optimizer: Any, family: TaskFamily, key: PRNGKeyArray) -> str | None:
    """What an optimizer has against the params of a family, as a `Partitioned` one whose parts do not fit; else `None`."""
    try:
        eqx.filter_eval_shape(lambda: optimizer.init(family(key).init(key)))
    except ValueError as error:
        return f"refuses these params: {str(error).rstrip('.')}"
    return None


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


def _run(
    panel: Panel, contenders: dict[str, _Contender], missing, family, trials, search, tune_keys, test_keys, device
):
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
        optimizer = make(jax.tree.map(lambda x: x[jnp.argmin(tuning.scores(runs))], grid))
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


def _described(contender: _Contender) -> dict[str, Any]:
    return {
        "learned": contender.learned,
        "meta_training": contender.meta_training and contender.meta_training._asdict(),
    }


def _fingerprints(families, contenders) -> dict[str, dict[str, str | Unfingerprintable]]:
    """So that records of one optimizer or family are never taken for another's of the same name."""
    prints = Fingerprints()

    def of(thing, name):
        try:
            return prints.of(thing, name)
        except Unfingerprintable as error:
            return error

    return {
        "panels": {name: of(family, f"the family of {name!r}") for name, family in families.items()},
        "optimizers": {n: of(c.baseline or c.optimizer, f"the optimizer {n!r}") for n, c in contenders.items()},
    }
