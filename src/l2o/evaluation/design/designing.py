"""The recipe that made our own rules win, in stages within a budget of time: `l2o.design`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from msgspec import Meta

from l2o.core import keys, parallel
from l2o.core.checks import count, flags, positive
from l2o.core.finals import FinalLosses, like
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily, check_family
from l2o.evaluation.costs import StepCost
from l2o.evaluation.design import rules, tuned
from l2o.evaluation.design.journal import Journal
from l2o.evaluation.design.look import look, measured
from l2o.evaluation.design.plan import BASELINES, POPULATION, Plan, plan
from l2o.evaluation.design.result import Candidate, Designed, Progress, surely_better
from l2o.evaluation.timing import step_costs
from l2o.io.files import holding_its_folder
from l2o.meta.search import search
from l2o.optimizers.wrappers.partitioned import Partitioned

CURRENCIES = ("steps", "seconds")
_SIGMA, _SIGMA_LATER = 0.5, 0.3  # step sizes of the first searches, and of those that go on from what was found
_Steps = Annotated[int, Meta(ge=1, le=10**7)]
_ROUNDS = 4  # of further validation tasks where the first leave it open
_SEARCHED_BY = 0.85  # share of the time after which no search goes on
_LEVEL = 1.01  # a simpler or cheaper rule that is no worse than this is taken


@holding_its_folder
def design(
    family: TaskFamily,
    *,
    horizon: int = 100,
    minutes: float | int = 10,
    key: PRNGKeyArray | None = None,
    by: str = "steps",
    name: str = "this family",
    folder: str | Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    devices: Sequence[parallel.Device] | None = None,
) -> Designed:
    r"""Designs an optimizer for the problems of a `family`, whose loss after `horizon` steps is to be small.

    1. It looks at the family: are losses deterministic, how large are gradients, what does a run cost?
    2. It tunes the baselines, each with and without schedules: rates on a grid, refined.
    3. It searches (`l2o.search`) the constants of a `l2o.Momentum`, from where Adam and Nesterov's momentum were tuned; then with
       a power that is cheap; then with a set of constants for each kind of parameter.
    4. It races them all on validation tasks. **The best tuned baseline is one of them**, and wins unless another is better beyond
       doubt: so the answer is never worse than tuning, but for what validation cannot see.
    5. It measures the winner on fresh tasks beside the best baseline, and what a step of each costs.

    ```python
    found = l2o.design(family, horizon=150, minutes=10)
    found.ratio  # of its mean last loss to that of the best tuned baseline
    found.save("mine.safetensors")
    ```

    Call `l2o.use_all_cores()` first. Ctrl-C ends it with the best so far; a second one stops it.

    **Arguments:**

    - `minutes`: the time that it may take. Two are enough for small problems.
    - `by`: "steps": least loss after `horizon` steps. "seconds": least loss in the time that the best baseline takes for so
        many, for which the winner's horizon is adapted to what its steps cost.
    - `name`: how the problem is called in what is written.
    - `folder`, `resume`: where stages are kept, so that a run that was killed goes on and ends in the same rule, bit for bit, as
        long as the time is enough for what was planned.
    - `on_progress`: called with a `Progress`, some times a minute.

    **Raises:** before anything is run, `ValueError` for bad arguments or tasks (see `check_family`), or if another design is to
    be resumed; `FileExistsError` if `folder` holds a design and `resume` is not set, `FileNotFoundError` if it holds none and it
    is.
    """
    count("horizon", horizon)
    positive("minutes", minutes)
    flags(resume=resume)
    if by not in CURRENCIES:
        raise ValueError(f"`by` must be one of {', '.join(CURRENCIES)}, got {by!r}.")
    key = jax.random.key(0) if key is None else keys.one(key)
    check_family(family, keys.of_check(key))
    settings = {"family": family, "horizon": horizon, "key": key, "by": by, "minutes": float(minutes)}
    journal = Journal(None if folder is None else Path(folder), resume=resume, settings=settings)
    return _Design(family, horizon, minutes, key, by, name, journal, on_progress, devices).run()


class _Design:
    """One call of `design`."""

    def __init__(self, family, horizon, minutes, key, by, name, journal, on_progress, devices):
        self.family, self.horizon, self.by, self.name = family, horizon, by, name
        self.journal, self.on_progress, self.devices = journal, on_progress, devices
        self.look_key, self.tune_key, self.search_key, self.validation_key, self.test_key = jax.random.split(key, 5)
        self.budget, self.seconds = 60.0 * minutes, journal.seconds
        self.tuned: dict[str, tuned.TunedBaseline] = {}
        self.found: dict[str, tuple[AbstractLearnedOptimizer, str]] = {}
        self.scores: dict[str, float] = {}  # of those found, on the validation tasks of their searches
        self.num_runs = 0.0
        self.runs: dict[Any, FinalLosses] = {}

    def run(self) -> Designed:
        finished = True
        try:
            self.tell("looking at the problem")
            self.seen = look(self.family, self.look_key)
            self.plan = self.planned()
            self.tune()
            self.search()
        except KeyboardInterrupt:
            if not self.tuned:
                raise
            finished = False
        candidates = self.raced()
        winner, baseline = self.chosen(candidates)
        costs = self.costs(winner, baseline) if finished or self.by == "seconds" else {}
        steps = self.horizon if self.by == "steps" or winner.baseline else self.steps_of(winner, baseline, costs)
        if steps != self.horizon:
            winner = winner._replace(optimizer=rules.with_horizon(winner.optimizer, steps))
        if finished:
            baseline_tested = self.tested(baseline, self.horizon, costs)
            winner = baseline_tested if winner.name == baseline.name else self.tested(winner, steps, costs)
            baseline = baseline_tested
        by_name = {c.name: c for c in candidates} | {c.name: c for c in (baseline, winner)}
        return Designed(
            optimizer=winner.optimizer,
            winner=winner,
            baseline=baseline,
            candidates=sorted(by_name.values(), key=lambda c: c.mean),
            horizon=self.horizon,
            by=self.by,
            deterministic=self.seen.deterministic,
            num_params=self.seen.num_params,
            finished=finished,
            seconds=self.seconds(),
            num_runs=self.num_runs,
            name=self.name,
        )

    def tell(self, stage: str) -> None:
        if self.on_progress is None:
            return
        now = self.seconds()
        best, ratio = "", float("nan")
        if self.tuned:
            name, reference = min(((n, t.loss) for n, t in self.tuned.items()), key=lambda pair: pair[1])
            best = str(self.tuned[name].rule)
            if self.scores:
                name = min(self.scores, key=lambda n: self.scores[n])
                ratio = self.scores[name] / reference if reference > 0 else float("nan")
                best = name if ratio < 1 else best
        self.on_progress(Progress(stage, min(1.0, now / self.budget), best, ratio, max(0.0, self.budget - now)))

    def planned(self) -> Plan:
        """How much there is time for, from how long some runs take; the same when the design is resumed."""

        def find():
            rule, cores = rules.start("adam", 1e-3, self.horizon, self.seen), len(parallel.share(64, self.devices))
            speed = measured(self.runs_of(rule), rule, self.look_key, POPULATION // 2, cores)
            return plan(self.budget - self.seconds(), *speed)

        return self.journal.value("plan", Plan, find)

    def tune(self) -> None:
        names = BASELINES[: self.plan.baselines]
        for i, name in enumerate(names):
            self.tell(f"tuning {name} ({i + 1} of {len(names)})")
            found = self.journal.value(
                f"tuned {name}",
                tuned.Found,
                lambda name=name: tuned.tune_baseline(
                    name,
                    self.family,
                    jax.random.split(self.tune_key, self.plan.tuning.more * self.plan.tuning_tasks),
                    self.plan.tuning,
                    horizon=self.horizon,
                    num_evals=self.seen.num_evals,
                    batch_size=self.seen.batch_size(11),
                    devices=self.devices,
                ),
            )
            self.tuned[name] = tuned.as_rule(name, self.horizon, found)

    def search(self) -> None:
        plan = self.plan.generations
        for name, generations in (("adam", plan.from_adam), ("nag", plan.from_nag)):
            rule = rules.start(name, self.tuned[name].rule.rate, self.horizon, self.seen)
            self.searched(f"momentum from {name}", rule, generations, _SIGMA, f"searched from {self.tuned[name].rule}")
        if not self.scores:
            return
        best = self.best()
        self.searched("momentum", self.found[best][0], plan.further, _SIGMA_LATER, f"searched on from {best}")
        best = self.best()
        cheaper = rules.cheaper(self.found[best][0], self.seen)
        what = f"{best} with the power {cheaper.power:g}, searched on"
        self.searched("momentum with a cheap power", cheaper, plan.cheap, _SIGMA_LATER, what)
        if self.scores.get("momentum with a cheap power", np.inf) <= _LEVEL * self.scores[best]:
            best = "momentum with a cheap power"
        label = rules.label(self.seen)
        if label is not None:
            parts = Partitioned({group: self.found[best][0] for group in self.seen.labels[label]}, label)
            what = f"{best} with constants of its own for each {label} of the params"
            self.searched("momentum by parts", parts, plan.parts, _SIGMA_LATER, what)

    def best(self) -> str:
        """Of those found so far, by the validation of their searches."""
        return min(self.scores, key=lambda name: self.scores[name])

    def validation_keys(self):
        """Of tasks on which searches are compared with one another, and of those on which all race at the end."""
        return jnp.split(jax.random.split(self.validation_key, 2 * self.plan.validation_tasks), 2)

    def searched(self, name: str, rule: AbstractLearnedOptimizer, generations: int, sigma: float, what: str) -> None:
        stage = name.replace(" ", "-")
        place = self.journal.place(stage)
        begun = place is not None and (place / "search.json").exists()
        left = _SEARCHED_BY * self.budget - self.seconds()
        if generations == 0 or (left < 0 and self.scores and not begun):
            return
        self.tell(f"searching: {name}")

        def on_generation(row):
            if row["generation"] % 5 == 0:
                self.tell(f"searching: {name}, generation {row['generation']} of {generations}")

        try:
            result = search(
                rule,
                self.family,
                horizon=self.horizon,
                key=jax.random.fold_in(self.search_key, len(self.found)),
                num_generations=generations,
                population=POPULATION,
                num_tasks=self.plan.search_tasks,
                sigma=sigma,
                num_evals=self.seen.num_evals,
                num_validation=self.plan.validation_tasks,
                validate_every=max(5, generations // 6),
                max_seconds=max(1.0, left),
                restarts=1,
                folder=place,
                resume=begun,
                on_generation=on_generation,
                runs=self.runs_of(rule),
            )
        except FloatingPointError:  # everything near the start diverges: the others go on without it
            return
        self.num_runs += result.num_runs
        self.found[name] = result.optimizer, what
        self.scores[name] = float(np.mean(self.losses(result.optimizer, self.validation_keys()[0])))
        self.journal.kept(stage, result.optimizer, {"horizon": self.horizon})

    def runs_of(self, rule: AbstractLearnedOptimizer, horizon: int | None = None) -> FinalLosses:
        """Compiled runs of rules of this form, of which there is one for each."""
        form = jax.tree.structure(rule), horizon or self.horizon
        if form not in self.runs:
            seen = {"num_evals": self.seen.num_evals, "batch_size": self.seen.batch_size(POPULATION)}
            self.runs[form] = FinalLosses(like(rule), self.family, horizon=form[1], devices=self.devices, **seen)
        return self.runs[form]

    def losses(self, rule: AbstractLearnedOptimizer, task_keys, horizon: int | None = None):
        """The last losses of one rule, as many tasks at a time as there are for validation: one program for all."""
        runs = self.runs_of(rule, horizon)
        arrays = jax.tree.map(lambda x: x[None], eqx.filter(rule, eqx.is_inexact_array))
        return runs(arrays, task_keys, tasks_together=self.plan.validation_tasks)[0]

    def raced(self) -> list[Candidate]:
        """All on the same validation tasks; of the baselines those that were best in tuning."""
        self.tell("racing all on validation tasks")
        order = sorted(self.tuned, key=lambda n: self.tuned[n].loss)[:3]
        entries = {
            n: (self.tuned[n].rule, f"{self.tuned[n].rule}, the best of {self.tuned[n].num_trials} trials", True)
            for n in order
        }
        entries |= {n: (rule, what, False) for n, (rule, what) in self.found.items()}

        _, race_keys = self.validation_keys()
        candidates = []
        for name, (rule, what, baseline) in entries.items():
            find = lambda rule=rule: self.losses(rule, race_keys)
            found = self.journal.losses(f"validated {name}", len(race_keys), find)
            candidates.append(Candidate(name, rule, baseline, found, what))
        return sorted(candidates, key=lambda c: c.mean)

    def chosen(self, candidates: list[Candidate]) -> tuple[Candidate, Candidate]:
        """The winner, and the best baseline, which it is unless another is better beyond doubt."""
        baseline = next(c for c in candidates if c.baseline)
        others = [c for c in candidates if not c.baseline and surely_better(c, baseline)]
        if not others:
            best = next((c for c in candidates if not c.baseline), baseline)
            return best if best.mean < baseline.mean and self.better_on_more(best, baseline) else baseline, baseline
        level = [c for c in others if c.mean <= _LEVEL * others[0].mean] or others[:1]
        return min(level, key=rules.price), baseline

    def better_on_more(self, ours: Candidate, theirs: Candidate) -> bool:
        """Whether more validation tasks, up to five times as many, leave no doubt where the first ones did."""
        for i in range(1, _ROUNDS + 1):
            more_keys = jax.random.split(jax.random.fold_in(self.validation_key, i), self.plan.validation_tasks)
            pair = []
            for candidate in (ours, theirs):
                find = lambda rule=candidate.optimizer, keys=more_keys: self.losses(rule, keys)
                found = self.journal.losses(f"validated {candidate.name} {i}", len(more_keys), find)
                pair.append(candidate._replace(validation=np.concatenate([candidate.validation, found])))
            ours, theirs = pair
            if surely_better(ours, theirs):
                return True
        return False

    def steps_of(self, winner: Candidate, baseline: Candidate, costs: Mapping[str, StepCost]) -> int:
        """As many of the winner's steps as the baseline's run to the horizon takes time."""
        find = lambda: max(1, round(self.horizon * costs[baseline.name].ms_step / costs[winner.name].ms_step))
        return self.journal.value("steps in equal seconds", _Steps, find)

    def tested(self, candidate: Candidate, steps: int, costs: Mapping[str, StepCost]) -> Candidate:
        """With its losses on fresh tasks after so many steps."""
        self.tell("measuring the winner on fresh tasks")
        test_keys = jax.random.split(self.test_key, self.plan.test_tasks)
        find = lambda: self.losses(candidate.optimizer, test_keys, steps)
        found = self.journal.losses(f"tested {candidate.name}", len(test_keys), find)
        return candidate._replace(test=found, cost=costs[candidate.name])

    def costs(self, *candidates: Candidate):
        return step_costs({c.name: c.optimizer for c in candidates}, self.family, key=self.test_key)
