"""The PyTorch twin of the rule of some weights."""

import importlib
import pkgutil
from typing import Any

from l2o.io import contents
from l2o.io.contents import PARTITIONED, PRECONDITIONED, RESCALED
from l2o.io.horizon import check_how
from l2o.torch._beyond import beyond
from l2o.torch._preconditioned import Preconditioned
from l2o.torch._rescaled import Rescaled
from l2o.torch._rule import AbstractFlat, AbstractListwise, Rule


def build(weights: dict[str, Any], part: str | None = None, how: str | None = None) -> Rule:
    """The rule of some weights: their "architecture", its "arguments", and "arrays" by path; `part`: as `of_part`.

    With `how` it is given the weights' "horizon", where they have one, and what happens after it (`l2o.Beyond`).

    **Raises:** `ValueError` if the architecture has no twin, or the arguments or arrays are not those that it needs, or the
    arrays hold NaN or infinity; for a `how` that does not exist; and as `of_part`.
    """
    _check(weights)
    rule = _rule(of_part(weights, part))
    if how is None:
        return rule
    check_how(how)
    horizon = weights.get("horizon")
    return rule if horizon is None else beyond(rule, horizon, how)


_HERE = "This set of weights"  # in messages; a file was named when it was read


def _check(weights):
    missing = {"architecture", "arguments", "arrays"} - weights.keys()
    if missing:
        raise ValueError(
            f"{_HERE} has no {min(missing)!r}: pass what `load_weights` or `l2o.pretrained.as_dict` return."
        )
    if weights["architecture"] not in contents.WRAPPERS:
        _twin(weights["architecture"])  # first, as the advice is another
    shapes = {name: tuple(array.shape) for name, array in weights["arrays"].items()}
    contents.check(weights["architecture"], weights["arguments"], shapes, _HERE)
    for name, array in weights["arrays"].items():
        if not array.is_floating_point() or not array.isfinite().all():
            raise ValueError(f"{_HERE} must be finite floating-point numbers, and {name} ({array.dtype}) is not.")
    horizon = weights.get("horizon")
    if horizon is not None and (isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1):
        raise ValueError(f"{_HERE} has the horizon {horizon!r}, which must be a whole number of steps, at least 1.")


def _rule(weights) -> Rule:
    architecture = weights["architecture"]
    if architecture in (RESCALED, PRECONDITIONED):
        inside = weights["arguments"]["optimizer"]
        rule, there = _rule(_inside(weights, ".optimizer", inside)), inside["architecture"]
        if architecture == RESCALED:
            if not isinstance(rule, AbstractFlat):
                raise ValueError(
                    f"What is rescaled must be a rule on the vector of all coordinates, and {there} is none."
                )
            return Rescaled(rule, weights["arguments"]["rms"])
        if not isinstance(rule, AbstractListwise):
            raise ValueError(
                f"In PyTorch only a rule of a few constants can be preconditioned, and {there} is none. Use these weights with "
                "JAX and optax, by `l2o.load`."
            )
        num = len(weights["arguments"]["shapes"])
        return Preconditioned(rule, [weights["arrays"][f".log_factors[{i}]"].exp() for i in range(num)])
    return _twin(architecture).build(weights["arrays"], **weights["arguments"])


def names() -> list[str]:
    """The architectures that have a twin: the public modules here."""
    package = importlib.import_module("l2o.torch")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def _twin(architecture):
    twins = names()
    if architecture not in twins:
        raise ValueError(
            f"No PyTorch twin of the architecture {architecture!r}. Twins: {', '.join(twins)}. "
            "Use these weights with JAX and optax, by `l2o.load`."
        )
    return importlib.import_module(f"l2o.torch.{architecture}")


def of_part(weights: dict[str, Any], part: str | None) -> dict[str, Any]:
    """The weights of one part of a `l2o.Partitioned` optimizer; of any other, its weights.

    **Raises:** `ValueError` if `part` names none, or is missing.
    """
    if weights["architecture"] != PARTITIONED:
        if part is None:
            return weights
        raise ValueError(
            f"These weights are of one {weights['architecture']}, without parts: part={part!r} names none."
        )
    parts = weights["arguments"]["parts"]
    if part not in parts:
        groups = ", ".join(f'{{"params": ..., "part": "{name}"}}' for name in parts)
        raise ValueError(
            f"These weights have a part for each kind of parameter, {', '.join(map(repr, parts))}, and every group must name "
            f"its own, got part={part!r}. Pass `params` as groups: [{groups}]."
        )
    return _inside(weights, f".parts[{part!r}]", parts[part])


def _inside(weights, prefix, structure) -> dict[str, Any]:
    """The weights of what a wrapper holds at `prefix`, a path in JAX's optimizer."""
    arrays = {path.removeprefix(prefix): a for path, a in weights["arrays"].items() if path.startswith(prefix)}
    return {**structure, "arrays": arrays}
