"""Meta-trained optimizers on disk: safetensors with their whole provenance in the header, and those that ship.

A file holds the meta-parameters by path (`.cells[0].weight`, ...) and, in its header, the architecture's name and
constructor arguments, the training recipe, seed, versions and licence. Loading never runs code from the file.
"""

import importlib
import json
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from l2o.core import horizons, plugins, scale
from l2o.core.checks import counts, kind
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily
from l2o.io import contents as _contents
from l2o.io import weights as _weights
from l2o.io.door import HINT, shown
from l2o.io.files import check_writable, write_whole
from l2o.io.horizon import check_how, passed
from l2o.io.weights import names as names
from l2o.optimizers.wrappers.beyond import bare, horizon_of
from l2o.optimizers.wrappers.beyond import beyond as beyond_horizon


def describe(name_or_path: str | Path) -> str:
    """The card of an optimizer (Markdown): what it was trained on, its measured wins and losses.

    **Arguments:** `name_or_path`: as of `load`. The card of a file is the one of its name beside it, NAME.md, or README.md.

    Control characters are left out of it, so that it can be printed.

    **Raises:** as `load`; `ValueError` if there is no card.
    """
    return _weights.card(name_or_path)


def save(
    path: str | Path,
    optimizer: AbstractLearnedOptimizer,
    *,
    recipe: dict[str, Any] | None = None,
    licence: str = "Apache-2.0",
    family: TaskFamily | None = None,
) -> None:
    """Writes `optimizer` to `path`, whole or not at all.

    **Arguments:**

    - `recipe`: how it was meta-trained (task, horizon, steps, seed, command, ...), anything JSON can hold, and NumPy's numbers.
        Its "horizon", the steps of a run, goes into the header of its own accord: `load` holds the params after it.
    - `family`: what it was meta-trained on. It is run there for the recipe's "horizon", 16 times, and the size of the
        gradients it meets (`l2o.core.scale`) is written into the header, so that use far from it can be warned of. Not of an
        `l2o.Rescaled`, to which gradients of all sizes are the same. And it is run for ten times as long, 4 times, and what
        becomes of the loss (`l2o.core.horizons`) is written there too.

    **Raises:** `ValueError` if the optimizer is not of an architecture of this package, nor `l2o.Partitioned` into such or
    `l2o.Rescaled`, or names its leaves by a function, or there is a `family` but no "horizon" in the recipe, or it could not
    be loaded again: weights that are not finite, a recipe whose "horizon" is no number of steps; `OSError` if `path` cannot
    be written.
    """
    import safetensors.numpy

    contents, optimizer = as_dict(optimizer), bare(optimizer)
    told = _as_json(recipe or {})
    if family is not None and not isinstance(told.get("horizon"), int):
        raise ValueError(
            'To measure the gradients on `family`, the recipe must say for how many steps: recipe={"horizon": 100, ...}.'
        )
    header = {
        "format": _weights.FORMAT,
        "architecture": contents["architecture"],
        "arguments": json.dumps(contents["arguments"]),
        "recipe": json.dumps(told),
        "licence": licence,
        "versions": json.dumps(_versions()),
    }
    horizon = told.get("horizon", contents.get("horizon"))
    if horizon is not None:
        header["horizon"] = json.dumps(horizon)
    path = Path(path)
    try:
        _weights.check(contents["arrays"], header, "What is to be saved")
    except ValueError as error:
        why = str(error).removesuffix(HINT).rstrip()
        raise ValueError(f"{why} Such a file could not be loaded again, so none is written.") from error
    check_writable(path.absolute().parent)
    if family is not None and horizon is not None:
        if optimizer.sees_scale:
            header["scale"] = json.dumps(scale.gradient_scale(optimizer, family, horizon=horizon))
        header["beyond"] = json.dumps(horizons.losses_beyond(optimizer, family, horizon=horizon))
    write_whole(path, safetensors.numpy.save(contents["arrays"], metadata=header))


def _as_json(recipe: Any) -> dict[str, Any]:
    """The recipe as it is when it is read again; NumPy's and JAX's numbers and arrays are numbers and lists of them."""

    def plain(value):
        if isinstance(value, np.generic | np.ndarray | jax.Array):
            return np.asarray(value).tolist()
        raise TypeError(f"a {type(value).__name__}, {shown(value)}, is nothing that JSON can hold")

    kind("recipe", recipe, Mapping, 'a dict, such as {"horizon": 100}')
    try:
        return json.loads(json.dumps(recipe, default=plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"`recipe` must be what JSON can hold: {error}.") from error


def as_dict(optimizer: AbstractLearnedOptimizer) -> dict[str, Any]:
    """What a weights file holds, in plain containers: "architecture", "arguments" and "arrays" by their path.

    `l2o.torch.LearnedOptimizer` takes it in the place of a name, so weights go from one framework to the other in memory. Of an
    optimizer with a horizon (`l2o.beyond`), they are those of the rule itself, and "horizon" says for how many steps it is.

    **Raises:** as `save`.
    """
    horizon, optimizer = horizon_of(optimizer), bare(optimizer)
    arrays = jax.tree_util.tree_leaves_with_path(eqx.filter(optimizer, eqx.is_inexact_array))
    return {
        **optimizer.to_spec(),
        "arrays": {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in arrays},
        **({} if horizon is None else {"horizon": horizon}),
    }


def load(
    name_or_path: str | Path,
    *,
    like: AbstractLearnedOptimizer | None = None,
    horizon: int | None = None,
    gradients: PyTree | None = None,
    beyond: str | None = "hold",
) -> AbstractLearnedOptimizer:
    """A shipped optimizer by its name, or one written by `save`: a file, a folder with one, or "user/repo" on the Hub.

    A shipped name is read from the package, and so is never looked for anywhere else. "user/repo" or "user/repo@revision"
    is a repository of the Hugging Face Hub with one weights file (needs the extra `l2o[hub]`), unless it is a path here.

    **Arguments:**

    - `like`: refuse weights that are not of this optimizer's architecture and sizes. Those of a class of your own, of `Guarded`
        and of `l2o.chain` are loaded so alone: into a copy of `like`, whose numbers are all replaced.
    - `horizon`: for how many steps you mean to use it; warns (`UserWarning`) at once where it was meta-trained for fewer.
    - `gradients`: those of your loss at your start; warns where they are far larger or smaller than in its training.
    - `beyond`: what happens after the steps that it was meta-trained for, of which it knows nothing. "hold", the default, holds
        the params where they are then, so that no run ever gets worse. To go on training, "fallback" hands over to Adam, with
        steps as large as the rule's last ones and then smaller, and "anneal" lets the rule's own steps fall to zero
        (`l2o.Beyond`). A run that passes the horizon warns once (`UserWarning`). None: the rule as it is, without a warning,
        to meta-train it on or to look at it; it may ruin a long run. A warning inside `jit` is a call of Python, which
        `jax.export` refuses: load with a `horizon` what is to be exported, and it is told here and now.

    A `l2o.Partitioned` optimizer tells the leaves of your params apart by their top-level keys, or else by your function:
    `l2o.Partitioned(l2o.load(name).parts, label)`.

    **Raises:** `ValueError` if there is none of that name, or the file is truncated, not safetensors, not written by
    l2o, or of another architecture, or a field of its header or an array is not what it must be; `ImportError` if the extra
    is missing.
    """
    path = _weights.resolve(name_or_path)
    leaves, header = _weights.read(path)
    told = _contents.decoded(header, path)
    counts(horizon=horizon)
    if beyond is not None:
        check_how(beyond)
    _warn_if_far(name_or_path, told, horizon, gradients, beyond)
    saved, arguments = told["architecture"], told["arguments"]
    if like is not None:
        like = bare(like)
        optimizer, wanted = like, like.to_spec()
        if wanted["architecture"] != saved:
            raise ValueError(f"Weights at {path} are for {saved!r}, not {wanted['architecture']!r}.")
    elif (own := _contents.own(saved, arguments)) is not None:
        raise ValueError(
            f"Weights at {path} are of a class of your own, {own}, and a file does not choose what code runs. Make one with the "
            "same sizes, with any numbers in it, and pass it: `l2o.load(path, like=...)`."
        )
    else:
        optimizer = eqx.filter_eval_shape(lambda: _build(saved, arguments))

    def fill(key_path, leaf):
        if not (isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_inexact_array(leaf)):
            return leaf
        name = jax.tree_util.keystr(key_path)
        if name not in leaves or leaves[name].shape != leaf.shape:
            found = leaves[name].shape if name in leaves else "nothing"
            raise ValueError(
                f"Weights at {path} are for {saved!r} with arguments {arguments}, not for the optimizer asked for "
                f"(leaf {name}: {found} vs {leaf.shape})."
            )
        return jnp.asarray(leaves.pop(name))

    filled = jax.tree_util.tree_map_with_path(fill, optimizer)
    if leaves:
        raise ValueError(f"Weights at {path} have an array {min(leaves)!r} that the optimizer asked for does not have.")
    if like is not None:  # arrays may fit where constants, such as an output scale, differ
        _check_arguments(arguments, json.loads(json.dumps(like.to_spec()["arguments"])), path, saved)
    trained = _contents.horizon(told)
    if beyond is None or trained is None:
        return filled
    # Who says for how many steps the optimizer is used has been told already.
    return beyond_horizon(filled, trained, beyond, name=str(name_or_path) if horizon is None else None)


def check(name_or_path: str | Path, *, horizon: int | None = None, gradients: PyTree | None = None) -> None:
    """Warns (`UserWarning`) where you mean to use saved weights far outside what their header says they were trained on.

    An optimizer is a pure function and, under `jit`, sees no values: it cannot check this by itself. Do it once, outside,
    with the first gradients of your run.

    **Arguments:**

    - `horizon`: the steps you mean to run: more than those of its training are far.
    - `gradients`: any pytree: a root mean square 100 times larger or smaller than at the start of its training runs is far.
        Weights saved without a `family` do not know theirs.

    **Raises:** as `load`; `ValueError` for gradients without values, inside `jit`.
    """
    _warn_if_far(name_or_path, header(name_or_path), horizon, gradients, "hold")


def header(name_or_path: str | Path) -> dict[str, Any]:
    """Architecture, arguments, recipe, licence and versions of saved weights, and the scale of the gradients they know.

    **Raises:** as `load`.
    """
    path = _weights.resolve(name_or_path)
    return _contents.decoded(_weights.read(path)[1], path)


def _warn_if_far(name_or_path, told, horizon, gradients, beyond):
    trained = _contents.horizon(told)
    if horizon is not None and trained is not None and horizon > trained:
        warnings.warn(passed(str(name_or_path), trained, beyond), UserWarning, stacklevel=3)
    if gradients is not None:
        try:
            found = float(scale.rms(jax.tree.map(jnp.asarray, gradients)))
        except jax.errors.ConcretizationTypeError as error:
            raise ValueError(
                "Inside `jit` gradients have no values to be checked. Check those of a first step outside."
            ) from error
        _weights.warn_of_scale(name_or_path, told.get("scale"), found, stacklevel=4)


def _check_arguments(found, asked, path, saved):
    for name in sorted({**found, **asked}):
        if found.get(name) != asked.get(name):
            raise ValueError(
                f"Weights at {path} are for {saved!r} with arguments {found}, not for the optimizer asked for "
                f"({name}: {found.get(name)!r} vs {asked.get(name)!r})."
            )


def _build(architecture, arguments):
    if architecture in _contents.WRAPPERS:
        wrapper = importlib.import_module(f"l2o.optimizers.wrappers.{architecture}")
        return wrapper.from_spec(arguments, _build)
    return plugins.get("optimizers", architecture).build(jax.random.key(0), **arguments)


def _versions():
    from importlib.metadata import version

    packages = ("l2o", "jax", "equinox", "optax")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
