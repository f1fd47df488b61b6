"""The race at the end of a design: all on the same validation tasks, and who wins."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.evaluation.design import rules
from l2o.evaluation.design.journal import Journal
from l2o.evaluation.design.result import Candidate, surely_better

LEVEL = 1.01  # a simpler or cheaper rule that is no worse than this is taken
_ROUNDS = 4  # of further validation tasks where the first leave it open


class Entry(NamedTuple):
    """One that takes part."""

    rule: AbstractLearnedOptimizer
    what: str  # how it was made, in words
    baseline: bool  # hand-designed, and tuned


def validation_keys(key: PRNGKeyArray, num_tasks: int) -> tuple[Key[Array, " num_tasks"], Key[Array, " num_tasks"]]:
    """Of tasks on which those found are compared with one another as it goes on, and of those on which all race at the end."""
    first, second = jnp.split(jax.random.split(key, 2 * num_tasks), 2)
    return first, second


class Race:
    """The race on `num_tasks` tasks, and on more of them where these leave doubt; what was run is in the journal."""

    def __init__(
        self,
        journal: Journal,
        losses: Callable[[AbstractLearnedOptimizer, Key[Array, " num_tasks"]], Float[np.ndarray, " num_tasks"]],
        key: PRNGKeyArray,
        num_tasks: int,
        target: float | None,
    ):
        self.journal, self.losses, self.key, self.num_tasks, self.target = journal, losses, key, num_tasks, target

    def run(self, entries: Mapping[str, Entry]) -> list[Candidate]:
        """All on the same tasks, the best first."""
        keys = validation_keys(self.key, self.num_tasks)[1]
        candidates = []
        for name, entry in entries.items():
            find = lambda rule=entry.rule: self.losses(rule, keys)
            found = self.journal.losses(f"validated {name}", len(keys), find)
            candidates.append(Candidate(name, entry.rule, entry.baseline, found, entry.what, target=self.target))
        return sorted(candidates, key=lambda c: c.mean)

    def chosen(self, candidates: list[Candidate]) -> tuple[Candidate, Candidate]:
        """The winner, and the best baseline, which it is unless another is better beyond doubt."""
        baseline = next(c for c in candidates if c.baseline)
        others = [c for c in candidates if not c.baseline and surely_better(c, baseline)]
        if not others:
            best = next((c for c in candidates if not c.baseline), baseline)
            return best if best.mean < baseline.mean and self.better_on_more(best, baseline) else baseline, baseline
        level = [c for c in others if c.mean <= LEVEL * others[0].mean] or others[:1]
        return min(level, key=rules.price), baseline

    def better_on_more(self, ours: Candidate, theirs: Candidate) -> bool:
        """Whether more validation tasks, up to five times as many, leave no doubt where the first ones did."""
        for i in range(1, _ROUNDS + 1):
            more_keys = jax.random.split(jax.random.fold_in(self.key, i), self.num_tasks)
            pair = []
            for candidate in (ours, theirs):
                find = lambda rule=candidate.optimizer, keys=more_keys: self.losses(rule, keys)
                found = self.journal.losses(f"validated {candidate.name} {i}", len(more_keys), find)
                pair.append(candidate._replace(validation=np.concatenate([candidate.validation, found])))
            ours, theirs = pair
            if surely_better(ours, theirs):
                return True
        return False
