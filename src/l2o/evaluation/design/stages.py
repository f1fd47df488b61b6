"""The stages in which a design looks for rules: it looks at the family, tunes, searches, and lets a network learn."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray
from msgspec import Meta

from l2o.core import parallel
from l2o.core.finals import FinalLosses, like, means_to_minimise
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily
from l2o.evaluation.design import rules, tuned
from l2o.evaluation.design.journal import Journal
from l2o.evaluation.design.look import curvatures, look, measured
from l2o.evaluation.design.network import network
from l2o.evaluation.design.plan import BASELINES, POPULATION, Plan, plan
from l2o.evaluation.design.race import Entry, validation_keys
from l2o.evaluation.design.result import Progress
from l2o.meta.search import search
from l2o.meta.validation import Validation
from l2o.optimizers.wrappers.partitioned import Partitioned

_SIGMA, _SIGMA_LATER = 0.5, 0.3  # step sizes of the first searches, and of those that go on from what was found
_SEARCHED_BY = 0.85  # share of the time after which no search goes on
# Times the best baseline's loss in tuning: who is further behind does not race, for which it would be compiled.
_FAR = 1.5
NETWORK = "network"
_NETWORK = 0.6  # of the time that is left; the rest is for searching on
_LEAST_MORE, _MOST_MORE = 8, 2000  # generations of a search for the time that is left; fewer find little
_More = Annotated[int, Meta(ge=0, le=_MOST_MORE)]
_LEAST_SECONDS, _LEAST_SHARE = 45.0, 0.2  # that must be left for a network: it takes two programs to compile


class Stages:
    """What a design has found so far, and how it finds more; what is in the journal is not run again."""

    def __init__(
        self,
        family: TaskFamily,
        journal: Journal,
        *,
        horizon: int,
        seconds: float,
        key: PRNGKeyArray,
        target: float | None,
        with_network: bool,
        on_progress: Callable[[Progress], None] | None,
        devices: Sequence[parallel.Device] | None,
    ):
        self.family, self.journal, self.horizon, self.budget, self.target = family, journal, horizon, seconds, target
        self.with_network, self.on_progress, self.devices = with_network, on_progress, devices
        self.look_key, self.tune_key, self.search_key, self.validation_key = jax.random.split(key, 4)
        self.seconds = journal.seconds
        self.tuned: dict[str, tuned.TunedBaseline] = {}
        self.found: dict[str, tuple[AbstractLearnedOptimizer, str]] = {}
        self.scores: dict[str, float] = {}  # of those found, on the validation tasks of their searches
        self.num_runs = 0.0
        self.pace = float("inf")  # seconds a generation, of the last search
        self.runs: dict[Any, FinalLosses] = {}

    def run(self) -> None:
        """All stages, one after the other."""
        self.tell("looking at the problem")
        self.seen = look(self.family, self.look_key)
        self.plan = self.planned()
        self.tune()
        self.search()
        if self.scores:
            if self.with_network:
                self.network()
            self.search_on()

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
                    batch_size=self.seen.batch_size(tuned.CHUNK),
                    target=self.target,
                    devices=self.devices,
                ),
            )
            self.tuned[name] = tuned.as_rule(name, self.horizon, found)

    def search(self) -> None:
        plan = self.plan.generations
        for kind, generations in ((rules.ADAPTIVE, plan.from_adaptive), (rules.PLAIN, plan.from_plain)):
            name = min((n for n in kind if n in self.tuned), key=lambda n: self.tuned[n].loss)
            rule = rules.start(name, self.tuned[name].rule.rate, self.horizon, self.seen)
            self.searched(f"momentum from {name}", rule, generations, _SIGMA, f"searched from {self.tuned[name].rule}")
        if not self.scores:
            return
        best = self.best()
        self.searched("momentum", self.found[best][0], plan.further, _SIGMA_LATER, f"searched on from {best}")
        if rules.is_small(self.seen):
            self.precondition()
        else:
            self.part()
        best = self.best()
        what = f"{best} with a power that is as cheap as Adam's"
        self.searched(
            "momentum with a cheap power", rules.cheaper(self.found[best][0], self.seen), plan.cheap, _SIGMA_LATER, what
        )

    def precondition(self) -> None:
        """A rate for each coordinate, where there are few."""
        name, best = "momentum with a rate for each parameter", self.best()
        generations = self.plan.generations.rates + self.plan.generations.parts
        if not self.may_search(name, generations):
            return
        rule = self.found[best][0]
        options = {"horizon": self.horizon, "num_evals": self.seen.num_evals}
        start = rules.preconditioned(rule, curvatures(self.family, rule, self.look_key, **options))
        what = f"{best} with factors from the curvatures, searched on"
        self.searched(name, start, generations, _SIGMA_LATER, what, rules.few(self.seen))

    def part(self) -> None:
        """Constants for each kind of parameter."""
        label, plan = rules.label(self.seen), self.plan.generations
        if label is None:
            return
        best = self.best()
        parts = Partitioned({group: self.found[best][0] for group in self.seen.labels[label]}, label)
        what = f"{best} with a rate of its own for each {label} of the params"
        self.searched("momentum with rates by parts", parts, plan.rates, _SIGMA, what, rules.rates)
        best = self.best()
        if self.found[best][0].group_rules():
            parts = self.found[best][0]
        what = f"constants of its own for each {label} of the params, searched on from {best}"
        self.searched("momentum by parts", parts, plan.parts, _SIGMA_LATER, what)

    def search_on(self) -> None:
        """The best rule but a network, searched on for as many generations as there is time for at the pace so far."""
        name = "momentum, searched longer"
        best = min((n for n in self.scores if n != NETWORK), key=lambda n: self.scores[n])
        rule, left = self.found[best][0], _SEARCHED_BY * self.budget - self.seconds()
        generations = self.journal.value(
            "more generations", _More, lambda: min(_MOST_MORE, int(max(0, left) / self.pace))
        )
        if generations >= _LEAST_MORE:
            where = rules.few(self.seen) if rules.has_factors(rule) else None
            self.searched(
                name, rule, generations, _SIGMA_LATER, f"{best}, searched on for the time that was left", where
            )

    def best(self) -> str:
        """Of those found so far, by the validation of their searches."""
        return min(self.scores, key=lambda name: self.scores[name])

    def place(self, name: str) -> Path | None:
        """Of a search's own."""
        return self.journal.place(name.replace(" ", "-"))

    def has_begun(self, name: str) -> bool:
        """Whether an earlier part of the run began this search."""
        place = self.place(name)
        return place is not None and (place / "search.json").exists()

    def may_search(self, name: str, generations: int) -> bool:
        """Whether a search was planned, and there is time for it; the first has its time in any case."""
        in_time = self.seconds() < _SEARCHED_BY * self.budget
        return generations > 0 and (in_time or not self.scores or self.has_begun(name))

    def searched(
        self,
        name: str,
        rule: AbstractLearnedOptimizer,
        generations: int,
        sigma: float,
        what: str,
        where: Callable[[Any], Any] | None = None,
    ) -> None:
        if not self.may_search(name, generations):
            return
        place, left = self.place(name), _SEARCHED_BY * self.budget - self.seconds()
        self.tell(f"searching: {name}")
        first = 0.0

        def on_generation(row):
            nonlocal first
            if row["generation"] == 1:
                first = self.seconds()  # it is compiled by then
            else:
                self.pace = max(1e-3, (self.seconds() - first) / (row["generation"] - 1))
            if row["generation"] % 5 == 0:
                self.tell(f"searching: {name}, generation {row['generation']} of {generations}")

        try:
            result = search(
                rule,
                self.family,
                horizon=self.horizon,
                key=jax.random.fold_in(self.search_key, len(self.found)),
                where=where,
                num_generations=generations,
                population=POPULATION,
                num_tasks=self.plan.search_tasks,
                sigma=sigma,
                num_evals=self.seen.num_evals,
                num_validation=self.plan.validation_tasks,
                target=self.target,
                validate_every=max(5, generations // 6),
                max_seconds=max(1.0, left),
                restarts=1,
                folder=place,
                resume=self.has_begun(name),
                on_generation=on_generation,
                runs=self.runs_of(rule),
            )
        except FloatingPointError:  # everything near the start diverges: the others go on without it
            return
        self.num_runs += result.num_runs
        self.keep(name, result.optimizer, what)

    def keep(self, name: str, rule: AbstractLearnedOptimizer, what: str) -> None:
        """A rule that was found, with its score on the tasks by which those found are compared with one another."""
        comparing_keys, _ = validation_keys(self.validation_key, self.plan.validation_tasks)
        self.found[name] = rule, what
        self.scores[name] = float(means_to_minimise(self.losses(rule, comparing_keys)[None], self.target)[0])
        self.journal.kept(name.replace(" ", "-"), rule, {"horizon": self.horizon})

    def network(self) -> None:
        """A network in the place of the best rule, where there is time left."""
        left = _SEARCHED_BY * self.budget - self.seconds()
        if left < max(_LEAST_SECONDS, _LEAST_SHARE * self.budget) and not self.journal.has_optimizer("imitation"):
            return
        best = self.best()
        self.tell(f"a network imitates {best}")
        try:
            rule = network(
                self.found[best][0],
                self.family,
                self.journal,
                horizon=self.horizon,
                key=jax.random.fold_in(self.search_key, 2**20),
                seconds=_NETWORK * left,
                num_tasks=min(64, self.plan.search_tasks),
                batch_size=self.seen.batch_size(1),
                validation=Validation(self.family, self.horizon, self.plan.validation_tasks, 50, 1),
                on_step=lambda step, most: self.tell(f"meta-training a network, step {step} of {most}"),
                devices=self.devices,
            )
        except FloatingPointError:  # what it was to imitate diverges on some tasks
            return
        self.keep(NETWORK, rule, f"an LSTM that imitated {best}, meta-trained from there")

    def entries(self) -> dict[str, Entry]:
        """All that take part in the race; of the baselines those that were not far behind the best in tuning, three at most."""
        order = sorted(self.tuned, key=lambda n: self.tuned[n].loss)[:3]
        far = self.tuned[order[0]].loss + (_FAR - 1) * abs(self.tuned[order[0]].loss)
        baselines = {n: self.tuned[n] for n in order if n == order[0] or self.tuned[n].loss <= far}
        return {
            n: Entry(t.rule, f"{t.rule}, the best of {t.num_trials} trials", True) for n, t in baselines.items()
        } | {n: Entry(rule, what, False) for n, (rule, what) in self.found.items()}

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
