"""One colour for an optimizer, wherever it is drawn."""

from collections.abc import Mapping
from typing import NamedTuple

from l2o.evaluation.records import Comparison

# Colours that the colour-blind can tell apart (Okabe & Ito 2008), but for the yellow, which is too faint on white.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("solid", "dash", "dot", "dashdot")


class Style(NamedTuple):
    """How an optimizer's lines are drawn."""

    colour: str
    dash: str  # as plotly names them
    learned: bool  # drawn thicker, and first


def styles(learned: Mapping[str, bool]) -> dict[str, Style]:
    """For optimizers by name, whether they are learned: colours in turn, and another dash when they have been used up."""
    names = sorted(learned, key=lambda name: not learned[name])
    num = len(_COLOURS)
    return {n: Style(_COLOURS[i % num], _DASHES[i // num % len(_DASHES)], learned[n]) for i, n in enumerate(names)}


def all_optimizers(comparison: Comparison) -> dict[str, bool]:
    """All optimizers of a comparison, and whether they are learned: learned ones first."""
    learned = {n: r.learned for records in comparison.records.values() for n, r in records.items()}
    learned |= dict.fromkeys(comparison.meta_training, True)  # one that has not run yet
    found = {name: learned.get(name, False) for name in comparison.optimizers}
    return dict(sorted(found.items(), key=lambda item: not item[1]))
