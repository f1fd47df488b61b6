"""The recipe that made our own rules win, in stages within a budget of time: `l2o.design`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import jax
from jaxtyping import PRNGKeyArray
from msgspec import Meta

from l2o.core import keys, parallel
from l2o.core.checks import count, flags, positive
from l2o.core.task import TaskFamily, check_family
from l2o.evaluation.costs import StepCost
from l2o.evaluation.design import rules
from l2o.evaluation.design.journal import Journal
from l2o.evaluation.design.race import Race
from l2o.evaluation.design.result import Designed, Progress
from l2o.evaluation.design.stages import Stages
from l2o.evaluation.timing import step_costs
from l2o.io.files import holding_its_folder

CURRENCIES = ("steps", "seconds")
_Steps = Annotated[int, Meta(ge=1, le=10**7)]


@holding_its_folder
def design(
    family: TaskFamily,
    *,
    horizon: int = 100,
    minutes: float | int = 10,
    key: PRNGKeyArray | None = None,
    by: str = "steps",
    target: float | None = None,
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
    4. Where steps are what counts and there is time left, a network learns to do what the best rule does (`l2o.distill`), and is
        meta-trained from there. Then the search goes on, for the rest of the time.
    5. It races them all on validation tasks. **The best tuned baseline is one of them**, and wins unless another is better beyond
       doubt: so the answer is never worse than tuning, but for what validation cannot see.
    6. It measures the winner on fresh tasks beside the best baseline, and what a step of each costs. These have a veto: if the
        winner is worse on them, the baseline is the answer.

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
    - `target`: a loss at which a problem counts as solved. Then as many problems as can be are to be solved by `horizon`, and how
        small their losses are below or above the target hardly matters (`l2o.search` has the equation). Default: their mean.
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
    if target is not None:
        positive("target", target)
    flags(resume=resume)
    if by not in CURRENCIES:
        raise ValueError(f"`by` must be one of {', '.join(CURRENCIES)}, got {by!r}.")
    key = jax.random.key(0) if key is None else keys.one(key)
    check_family(family, keys.of_check(key))
    settings = {"family": family, "horizon": horizon, "key": key, "by": by, "minutes": float(minutes), "target": target}
    journal = Journal(None if folder is None else Path(folder), resume=resume, settings=settings)
    stage_key, test_key = jax.random.split(key)
    stages = Stages(
        family,
        journal,
        horizon=horizon,
        seconds=60.0 * minutes,
        key=stage_key,
        target=target,
        with_network=by == "steps",
        on_progress=on_progress,
        devices=devices,
    )
    finished = True
    try:
        stages.run()
    except KeyboardInterrupt:
        if not stages.tuned:
            raise
        finished = False
    return _judged(stages, finished, by, name, test_key)


def _judged(stages: Stages, finished: bool, by: str, name: str, test_key: PRNGKeyArray) -> Designed:
    """Races all that was found, and measures the winner and the best baseline on fresh tasks."""
    journal, horizon, plan = stages.journal, stages.horizon, stages.plan
    stages.tell("racing all on validation tasks")
    race = Race(journal, stages.losses, stages.validation_key, plan.validation_tasks, stages.target)
    candidates = race.run(stages.entries())
    winner, baseline = race.chosen(candidates)
    costs: dict[str, StepCost] = {}
    if finished or by == "seconds":
        costs = step_costs({c.name: c.optimizer for c in (winner, baseline)}, stages.family, key=test_key)
    steps = horizon
    if by == "seconds" and not winner.baseline:  # as many of its steps as the baseline's run takes time
        ratio = lambda: costs[baseline.name].ms_step / costs[winner.name].ms_step
        steps = journal.value("steps in equal seconds", _Steps, lambda: max(1, round(horizon * ratio())))
        winner = winner._replace(optimizer=rules.with_horizon(winner.optimizer, steps))

    def tested(candidate, steps):
        stages.tell("measuring the winner on fresh tasks")
        test_keys = jax.random.split(test_key, plan.test_tasks)
        find = lambda: stages.losses(candidate.optimizer, test_keys, steps)
        found = journal.losses(f"tested {candidate.name}", len(test_keys), find)
        return candidate._replace(test=found, cost=costs[candidate.name])

    if finished:
        tested_baseline = tested(baseline, horizon)
        winner = tested_baseline if winner.name == baseline.name else tested(winner, steps)
        baseline = tested_baseline
    by_name = {c.name: c for c in candidates} | {c.name: c for c in (baseline, winner)}
    if (
        finished and winner.test_mean > baseline.test_mean
    ):  # a few runs that it ruins, which the validation tasks did not have
        by_name[winner.name] = winner._replace(what=f"{winner.what}; it would have won, but is worse on fresh tasks")
        winner = baseline
    return Designed(
        optimizer=winner.optimizer,
        winner=winner,
        baseline=baseline,
        candidates=sorted(by_name.values(), key=lambda c: c.mean),
        horizon=horizon,
        by=by,
        deterministic=stages.seen.deterministic,
        num_params=stages.seen.num_params,
        finished=finished,
        seconds=stages.seconds(),
        num_runs=stages.num_runs,
        name=name,
        target=stages.target,
    )
