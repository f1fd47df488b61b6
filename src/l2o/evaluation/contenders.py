"""Who takes part in a comparison: what a caller named or passed, and why one cannot run on a panel, or is warned of there."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from l2o.core import scale
from l2o.core.checks import kind
from l2o.core.optimizer import check_optimizer, silenced
from l2o.core.task import TaskFamily, is_deterministic
from l2o.evaluation.costs import MetaTraining
from l2o.evaluation.trials import Tuned
from l2o.evaluation.tuning import Search
from l2o.io import weights as _weights
from l2o.io.fingerprint import Fingerprints, Unfingerprintable
from l2o.io.horizon import passed
from l2o.meta.distill import Distilled
from l2o.meta.train import MetaTrained
from l2o.optimizers import baselines, pretrained
from l2o.optimizers.baselines import Baseline
from l2o.optimizers.wrappers.beyond import horizon_of


class Contender(NamedTuple):
    """An optimizer that takes part."""

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


def contenders_of(optimizers: Mapping[str, Any] | Iterable[str]) -> dict[str, Contender]:
    """By the names that they are reported under: the `optimizers` of `compare`."""
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
        return Contender(baseline=value)
    if isinstance(value, MetaTrained):
        cost = MetaTraining(value.seconds, value.num_episodes, value.num_inner_steps)
        return Contender(value.optimizer, learned=True, meta_training=cost)
    if isinstance(value, Distilled):
        cost = MetaTraining(value.seconds, value.num_runs, value.num_inner_steps)
        return Contender(value.optimizer, learned=True, meta_training=cost)
    if not isinstance(value, str | Path):
        check_optimizer(f"optimizers[{name!r}]", value)
        value = silenced(value)  # under whatever name it was loaded, it is the same rule
        return Contender(value, learned=bool(jax.tree.leaves(eqx.filter(value, eqx.is_inexact_array))))
    if value in baselines.BASELINES:
        return Contender(baseline=baselines.get(str(value)))
    check_name(str(value))
    told = pretrained.header(value)
    cost = MetaTraining.from_recipe(told["recipe"])
    return Contender(silenced(pretrained.load(value)), learned=True, meta_training=cost, scale=told.get("scale"))


def warn_of_scale(families, contenders, missing, keys) -> None:
    """Looks at the first gradients of panels that weights are still to be run on."""
    for panel, family in families.items():
        names = [n for n, c in contenders.items() if c.scale and (panel, n) in missing]
        if names:
            found = float(np.median(scale.at_start(family, keys)))
            for name in names:
                _weights.warn_of_scale(f"{name} (on {panel})", contenders[name].scale, found, stacklevel=4)


def warn_of_horizon(panels, contenders, missing) -> None:
    """Panels that judge at a later step than the optimizer was meta-trained for: from there on its curve is a level line."""
    for panel, it in panels.items():
        for name in (n for n in contenders if (panel, n) in missing):
            horizon = horizon_of(contenders[name].optimizer)
            if horizon is not None and it.horizon > horizon:
                warnings.warn(passed(f"{name} (on {panel})", horizon, "hold"), UserWarning, stacklevel=4)


def not_applicable(families, contenders, key) -> dict[str, dict[str, str]]:
    """By panel, who cannot run there, and why.

    **Raises:** `ValueError` for one that can run nowhere.
    """
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


def described(contender: Contender) -> dict[str, Any]:
    """What comparison.json says of it."""
    return {
        "learned": contender.learned,
        "meta_training": contender.meta_training and contender.meta_training._asdict(),
    }


def fingerprints(families, contenders) -> dict[str, dict[str, str | Unfingerprintable]]:
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
