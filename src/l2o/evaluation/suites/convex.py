"""Convex problems: quadratics, logistic regression, and two with an L1 norm."""

from functools import partial

from l2o.evaluation.panel import Panel
from l2o.tasks import lasso, logistic, quadratic, sparse_recovery

_CONDITIONED = "Ours: ||W θ - y||², y ~ N(0, I), eigenvalues of W'W evenly spaced in the logarithm and randomly rotated"
_UCI = "L2-regularised logistic regression on UCI's {}, standardised, from N(0, 0.1²)"
_PRIMER = "LASSO is a benchmark of Chen et al. 2021 (Learning to Optimize: A Primer and a Benchmark); sizes and λ = 0.1 are ours"
_RECOVERY = "Signals as in Chen et al. 2018, section 4, and Borgerding et al. 2017, at 40 dB; LASSO with λ = 0.02"


def panels(quick: bool = False) -> dict[str, Panel]:
    """Eleven panels. Only the digits come in minibatches."""
    horizon = 100
    longer = horizon if quick else 5 * horizon
    rows, dim = (25, 50) if quick else (250, 500)
    return {
        "quadratic_gaussian": _panel(
            quadratic.family, horizon, "Andrychowicz et al. 2016, section 3.1: W and y i.i.d. N(0, 1), 10 dimensions"
        ),
        "quadratic_small_well_conditioned": _quadratic(10, 10.0, horizon),
        "quadratic_small_ill_conditioned": _quadratic(10, 1000.0, longer),
        "quadratic_large_well_conditioned": _quadratic(50, 10.0, horizon),
        "quadratic_large_ill_conditioned": _quadratic(50, 1000.0, longer),
        "logistic_random": _panel(
            logistic.family, horizon, "Ours: 200 random examples, 20 features with scales spread over a decade"
        ),
        "logistic_breast_cancer": _table("breast_cancer", "Breast Cancer Wisconsin (Diagnostic), 456 tumours", horizon),
        "logistic_wine": _table("wine", "Wine, 144 wines of 3 growers", horizon),
        "logistic_digits": _table(
            "digits", "handwritten digits, 10 classes, in minibatches of 64", horizon, batch_size=64
        )._replace(window=horizon // 10),
        "lasso": _panel(partial(lasso.family, rows=rows, dim=dim), longer, f"{_PRIMER}: A of {rows} x {dim}"),
        "sparse_recovery": _panel(
            partial(sparse_recovery.family, rows=rows, dim=dim), longer, f"{_RECOVERY}, A of {rows} x {dim}"
        ),
    }


def _panel(make, horizon, source, **rest):
    return Panel(make, horizon, 2 * horizon, source, **rest)


def _quadratic(dim, condition, horizon):
    source = f"{_CONDITIONED}; {dim} dimensions, condition number {condition:g}"
    return _panel(partial(quadratic.family, dim=dim, condition=condition), horizon, source)


def _table(name, title, horizon, **settings):
    make = partial(logistic.family, data=name, init_std=0.1, **settings)
    return _panel(make, horizon, _UCI.format(title), data=(name,))
