"""FOLDER/comparison.json, what is compared: read with every field checked, and held beside that of a comparison that goes on."""

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from l2o.evaluation.costs import StepCost
from l2o.io.digest import Unfingerprintable
from l2o.io.door import convert, read_json, shown

# What comparison.json may say. Numbers are bounded by what no comparison has, so that none of them asks for all memory.
_Positive = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
_Name = Annotated[str, msgspec.Meta(max_length=4096)]


class _Panel(msgspec.Struct):
    horizon: _Positive
    run_to: _Positive
    source: str
    window: _Positive = 1
    batch_size: _Positive | None = None
    data: tuple[str, ...] = ()
    metrics_splits: tuple[str, ...] = ("test",)
    fingerprint: str | None = None


class _Meta(msgspec.Struct):
    seconds: float
    num_episodes: float
    num_steps: float


class _Optimizer(msgspec.Struct):
    learned: bool
    fingerprint: str | None
    meta_training: _Meta | None = None


class _Search(msgspec.Struct):
    num_trials: _Positive
    kind: str
    rates: tuple[float, float]
    schedules: list[str]
    weight_decays: tuple[float, float] | None = None


class _Settings(msgspec.Struct, omit_defaults=True):
    num_tasks: _Positive
    tune_tasks: Annotated[int, msgspec.Meta(ge=0, le=10**9)]
    search: _Search
    key: list[int | list[int]] | None = None
    test_keys: list[list[int]] | None = None
    precision: int | None = None


class _Content(msgspec.Struct):
    settings: _Settings
    panels: Annotated[dict[_Name, _Panel], msgspec.Meta(max_length=1000)]
    optimizers: Annotated[dict[_Name, _Optimizer], msgspec.Meta(max_length=1000)]
    left_out: dict[_Name, dict[_Name, str]]
    format: Annotated[int, msgspec.Meta(ge=1, le=2)] = 1


class _Cost(msgspec.Struct):
    ms_step: Annotated[float, msgspec.Meta(gt=0)]
    ms_optimizer: float
    state_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)]
    num_params: Annotated[int, msgspec.Meta(ge=1, le=2**60)]


def read(path: Path) -> dict[str, Any]:
    """What comparison.json says, as plain containers.

    **Raises:** `ValueError` that names the file and what is wrong with it.
    """
    told = read_json(path, _Content, finite=False)  # of some meta-training the number of steps is not known: NaN
    for name, panel in told.panels.items():
        check_panel(panel, f"{path}: the panel {shown(name)}")
    if not np.isfinite([*told.settings.search.rates, *(told.settings.search.weight_decays or ())]).all():
        raise ValueError(f"{path}: the search's rates and weight decays must be finite.")
    return json.loads(json.dumps(msgspec.to_builtins(told)))  # lists for tuples, as `_described` has them


def read_costs(path: Path) -> dict[str, StepCost]:
    """FOLDER/costs/PANEL.json, by optimizer.

    **Raises:** as `read`.
    """
    told = {name: convert(cost, _Cost, path=path, where=name) for name, cost in read_json(path, dict).items()}
    return {name: StepCost(**msgspec.structs.asdict(cost)) for name, cost in told.items()}


def joined(before: dict[str, Any], content: dict[str, Any], prints: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content of both: old panels and optimizers are kept; what both have must agree.

    **Raises:** `ValueError` that says what differs.
    """
    if before["format"] < 2:
        raise ValueError(
            f"The comparison in {folder} is of an older l2o, which did not record what its optimizers and tasks were "
            "made of. It can be reported, but not resumed; choose another folder."
        )
    pairs = [("settings", before["settings"], content["settings"])]
    for kind in ("panels", "optimizers"):
        pairs += [(n, before[kind][n], new) for n, new in content[kind].items() if n in before[kind]]
    for what, old, new in pairs:
        # What meta-training took decides no result, and grows a little each time a finished run is resumed.
        for field in (old.keys() | new.keys()) - {"fingerprint", "meta_training"}:
            if old.get(field) != new.get(field) and not _both_nan(old.get(field), new.get(field)):
                raise ValueError(
                    f"The comparison in {folder} was made with other {what}: {field} is {_short(old.get(field))} there, "
                    f"{_short(new.get(field))} here. Resume with the same, or choose another folder."
                )
    for kind, word in (("panels", "panel"), ("optimizers", "optimizer")):
        for name in content[kind].keys() & before[kind].keys():
            _check_same(folder, word, name, before[kind][name]["fingerprint"], prints[kind][name])
        content[kind] = {**before[kind], **content[kind]}
    reasons = content["left_out"]
    content["left_out"] = before["left_out"] | {p: before["left_out"].get(p, {}) | r for p, r in reasons.items()}
    return content


def check_panel(panel, where: str) -> None:
    """Refuses steps that make no panel: a `ValueError` that begins with `where`."""
    if not 1 <= panel.horizon <= panel.run_to or not 1 <= panel.window <= panel.horizon + 1:
        raise ValueError(
            f"{where} must have 1 <= horizon <= run_to and a window from 1 to the horizon, got horizon={panel.horizon}, "
            f"run_to={panel.run_to}, window={panel.window}."
        )


def _check_same(folder, word, name, old, new) -> None:
    """Makes sure that what is to be resumed under a name is what was recorded under it."""
    if isinstance(new, Unfingerprintable) or old is None:
        why = str(new) if isinstance(new, Unfingerprintable) else "What was recorded has no fingerprint."
        raise ValueError(
            f"The comparison in {folder} cannot be resumed with the {word} {name!r}: whether it is the one recorded under this "
            f"name cannot be told. {why} Make it an `equinox.Module`, pass it by name, give it another name, or choose another "
            "folder."
        )
    if old != new:
        raise ValueError(
            f"The comparison in {folder} cannot be resumed: the {word} {name!r} is another than the one recorded under this "
            "name. Resume with the same, give this one another name, or choose another folder."
        )


def _both_nan(old, new) -> bool:
    return str(old) == str(new)


def _short(value) -> str:
    return textwrap.shorten(str(value), 300)
