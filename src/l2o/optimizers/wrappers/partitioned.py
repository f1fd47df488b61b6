"""Several learned optimizers for one set of params: each leaf is given to one of them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import equinox as eqx
import jax
import optax
from jaxtyping import Array, PyTree

from l2o.core.checks import kind
from l2o.core.optimizer import AbstractLearnedOptimizer, CoordinateGroup

Label: TypeAlias = Callable[[tuple[Any, ...], Array], str]


def _top_level_key(path, leaf):
    if not path:
        return ""
    return str(next(getattr(path[0], name) for name in ("key", "name", "idx") if hasattr(path[0], name)))


# Labels that have a name, which a weights file can hold.
LABELS: dict[str, Label] = {
    "top": _top_level_key,
    "leaf": lambda path, leaf: jax.tree_util.keystr(path),
    "rank": lambda path, leaf: f"rank {leaf.ndim}",
}


class Partitioned(AbstractLearnedOptimizer):
    r"""The leaves of the params dealt out among `parts`, each of which acts on its own as if there were no others.

    $$[u^{(k)}_t, h^{(k)}_{t+1}] = m_k(\nabla^{(k)}_t, h^{(k)}_t; \varphi_k) \quad \text{for every part } k$$

    The paper's optimizer of convolutional nets is two LSTMs, one for the convolutional parameters and one for the dense ones
    (Andrychowicz et al. 2016, section 3.3: one for both was worse):

    ```python
    l2o.Partitioned({"conv": lstm.build(key), "dense": lstm.build(other_key)})
    ```

    A part is given the params' own structure with `None` in the place of the leaves of others; the state is a dict of the
    parts' states. `l2o.Blocks` and `l2o.Sampled` apply if all parts are coordinatewise. It may itself be a part.

    **Arguments:**

    - `parts`: learned optimizers by name.
    - `label`: `label(path, leaf)` is the name of the part that a leaf of the params is given to; `path` as in
        `jax.tree_util.tree_map_with_path`. Or the name of such a function: "top", the top-level key (or field, or position)
        that the leaf is under, so params `{"conv": ..., "dense": ...}` need no other; "leaf", its whole path as
        `jax.tree_util.keystr` writes it, so that every leaf has a part of its own; "rank", "rank 2" for a matrix and so on.
        Weights files hold names, but no functions: after loading, name the leaves of your own params by
        `l2o.Partitioned(l2o.load(path).parts, label)`.

    **Raises:** `TypeError` for parts that are no learned optimizers, or names that are no strings; `ValueError` if there are no
    parts, or one wants the loss (`Guarded`, which goes around this); from `init` and `update` if a leaf's label is no part's
    name, or a part has no leaves.
    """

    parts: dict[str, AbstractLearnedOptimizer]
    label: Label | str = eqx.field(static=True)

    def __init__(self, parts: Mapping[str, AbstractLearnedOptimizer], label: Label | str | None = None):
        kind("parts", parts, Mapping, 'a mapping from names to learned optimizers, such as {"conv": a, "dense": b}')
        if not parts:
            raise ValueError("`parts` is empty: give at least one learned optimizer, by name.")
        for name, part in parts.items():
            kind("parts", name, str, "a mapping from names, which are strings")
            if isinstance(part, optax.GradientTransformation):
                raise TypeError(
                    f"Part {name!r} is an optax transformation. Pass `l2o.chain` of it, a rule without meta-parameters."
                )
            kind(f"parts[{name!r}]", part, AbstractLearnedOptimizer, "a learned optimizer")
            if part.uses_value:
                wrapper = type(part).__name__
                raise ValueError(
                    f"Part {name!r} is a {wrapper}, which evaluates the loss at params of the whole model, but a part has only "
                    f"some of them. Put it outside: {wrapper}(Partitioned(...))."
                )
        if isinstance(label, str) and label not in LABELS:
            raise ValueError(f"No label named {label!r}. Labels: {', '.join(LABELS)}; or pass a function.")
        if label is not None and not isinstance(label, str):
            kind("label", label, callable, "a function from a path and a leaf of the params to a part's name")
        self.parts = dict(parts)
        self.label = "top" if label is None else label

    def labels(self, params: PyTree) -> PyTree[str]:
        """The name of the part that every leaf of `params` is given to, in their structure.

        **Raises:** `ValueError` if one is no part's name, or a part has no leaves.
        """
        label = LABELS[self.label] if isinstance(self.label, str) else self.label
        labels = jax.tree_util.tree_map_with_path(label, params)
        seen, known = sorted(set(map(str, jax.tree.leaves(labels)))), sorted(self.parts)
        if seen != known:
            unknown, idle = [n for n in seen if n not in known], [n for n in known if n not in seen]
            wrong = f"no part is named {unknown[0]!r}" if unknown else f"no leaf is given to the part {idle[0]!r}"
            how = "their top-level keys" if self.label == "top" else "`label`"
            raise ValueError(
                f"The params' leaves are named {seen} by {how}, but the parts are {known}: {wrong}. Give every leaf the name of "
                "a part: `l2o.Partitioned(optimizer.parts, label=lambda path, leaf: ...)`."
            )
        return labels

    def coordinate_groups(self, params):
        labels = self.labels(params)
        return {
            name: CoordinateGroup(part, lambda tree, name=name: deal(labels, name, tree))
            for name, part in self.parts.items()
        }

    def group_rules(self):
        return self.parts

    def with_groups(self, rules):
        return eqx.tree_at(lambda self: self.parts, self, dict(rules))

    def to_spec(self):
        if not isinstance(self.label, str):
            raise ValueError(
                "Weights files hold no functions, and this `Partitioned` has a `label`. Save "
                "`l2o.Partitioned(optimizer.parts)`, and after loading give it again: `l2o.Partitioned(loaded.parts, label)`."
            )
        arguments: dict[str, Any] = {"parts": {n: p.to_spec() for n, p in self.parts.items()}}
        if self.label != "top":  # as every file said before labels had names
            arguments["label"] = self.label
        return {"architecture": "partitioned", "arguments": arguments}

    def init(self, params):
        labels = self.labels(params)
        return {name: part.init(deal(labels, name, params)) for name, part in self.parts.items()}

    def update(self, updates, state, params=None, **extra: Any):
        labels = self.labels(updates)
        results = {
            name: part.update(
                deal(labels, name, updates),
                state[name],
                None if params is None else deal(labels, name, params),
                **extra,
            )
            for name, part in self.parts.items()
        }
        return eqx.combine(*(u for u, _ in results.values())), {name: new for name, (_, new) in results.items()}


def from_spec(arguments: Mapping[str, Any], build: Callable[..., AbstractLearnedOptimizer]) -> Partitioned:
    """The wrapper that `to_spec` told of; `build(architecture, arguments)` makes a part."""
    return Partitioned({name: build(**part) for name, part in arguments["parts"].items()}, arguments.get("label"))


def deal(labels: PyTree[str], name: str, tree: PyTree) -> PyTree:
    """The leaves of `tree` labelled `name`, and `None` for the others."""
    return jax.tree.map(lambda label, leaf: leaf if label == name else None, labels, tree)
