"""What a comparison recorded, and the folder that it is kept in.

FOLDER/comparison.json               what is compared: panels, optimizers, search, keys
FOLDER/cells/PANEL/OPTIMIZER.npz     curves, metrics and trials of one cell, written whole or not at all
FOLDER/costs/PANEL.json              what a step costs each of them, measured side by side
"""

import io
import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import msgspec
import numpy as np
from jaxtyping import Float

from l2o.core.curves import Curves
from l2o.evaluation.costs import MetaTraining, StepCost
from l2o.evaluation.panel import Panel
from l2o.evaluation.tuning import SCHEDULES, Trial, Tuned
from l2o.io.door import convert, one_line, read_arrays, read_json, shown
from l2o.io.files import check_writable, subfolder, write_whole
from l2o.io.fingerprint import Unfingerprintable
from l2o.io.names import file_name

_CELL_BYTES = 2**28  # of a cell's arrays


class Record(NamedTuple):
    """One cell: an optimizer's results on one panel."""

    curves: Curves
    tuned: Tuned | None = None  # of a tuned baseline: what was tried, and what was chosen
    learned: bool = False
    images: Float[np.ndarray, "num height width 3"] | None = (
        None  # at the end of the first tasks' runs, in [0, 1]; diverged: 0
    )
    seconds: float = float("nan")  # tuning and running on one device; compiling too, for the first of a program


class Comparison(NamedTuple):
    """All that was recorded. `records[panel][optimizer]` is missing where `left_out[panel][optimizer]` says why."""

    panels: dict[str, Panel]  # of a comparison that was loaded, `make` is gone
    optimizers: tuple[str, ...]  # all that were asked for
    records: dict[str, dict[str, Record]]
    left_out: dict[str, dict[str, str]]
    costs: dict[str, dict[str, StepCost]]
    meta_training: dict[str, MetaTraining]  # of the learned optimizers of which it is known
    settings: dict[str, Any]  # num_tasks, tune_tasks, search, key


def load(folder: str | Path) -> Comparison:
    """What `l2o.comparison.compare` recorded in `folder`, complete or not.

    **Raises:** `FileNotFoundError` if the folder holds no comparison, `ValueError` naming the file where it holds one that is
    damaged or was not written by l2o.
    """
    return Store.reading(Path(folder)).comparison()


def gone():
    """The `make` of a panel that was loaded."""
    raise ValueError(
        "This comparison was loaded from its records, which hold no functions. Take the panel from its suite."
    )


class Store:
    """The folder of a comparison, held by the caller (`l2o._files.held`) where it is written to.

    **Arguments:** `optimizers`: of each, what comparison.json says ("learned", "meta_training"). `prints`: of optimizers and of
    panels' families, how they are told from others; an `Unfingerprintable` instead of what cannot be.
    """

    def __init__(self, folder, resume, panels, optimizers, settings, left_out, prints):
        self.folder = folder
        for name, panel in panels.items():
            check_panel(panel, f"The panel {name!r}")
        told = {kind: {n: _or_none(p) for n, p in prints[kind].items()} for kind in ("panels", "optimizers")}
        described = {n: {**_described(panel), "fingerprint": told["panels"][n]} for n, panel in panels.items()}
        optimizers = {n: {**o, "fingerprint": told["optimizers"][n]} for n, o in optimizers.items()}
        self.content = {
            "format": 2,
            "settings": settings,
            "panels": described,
            "optimizers": optimizers,
            "left_out": left_out,
        }
        if self._path.exists():
            if not resume:
                raise FileExistsError(
                    f"{folder} already holds a comparison. Pass resume=True (`--resume`) to go on with it, or choose another "
                    "folder."
                )
            self._join(_content(self._path), prints)
        elif resume:
            raise FileNotFoundError(f"{folder} holds no comparison to resume. Leave `resume` out to start one there.")
        check_writable(folder)
        write_whole(self._path, json.dumps(self.content, indent=1).encode())

    @classmethod
    def reading(cls, folder):
        store = cls.__new__(cls)
        store.folder = folder
        if not store._path.is_file():
            raise FileNotFoundError(f"{folder} holds no comparison (no comparison.json). `l2o compare` makes one.")
        store.content = _content(store._path)
        return store

    @property
    def _path(self):
        return self.folder / "comparison.json"

    def _join(self, before, prints):
        """Old panels and optimizers are kept; what both have must agree."""
        if before["format"] < 2:
            raise ValueError(
                f"The comparison in {self.folder} is of an older l2o, which did not record what its optimizers and tasks were "
                "made of. It can be reported, but not resumed; choose another folder."
            )
        pairs = [("settings", before["settings"], self.content["settings"])]
        for kind in ("panels", "optimizers"):
            pairs += [(n, before[kind][n], new) for n, new in self.content[kind].items() if n in before[kind]]
        for what, old, new in pairs:
            # What meta-training took decides no result, and grows a little each time a finished run is resumed.
            for field in (old.keys() | new.keys()) - {"fingerprint", "meta_training"}:
                if old.get(field) != new.get(field) and not _both_nan(old.get(field), new.get(field)):
                    raise ValueError(
                        f"The comparison in {self.folder} was made with other {what}: {field} is {_short(old.get(field))} there, "
                        f"{_short(new.get(field))} here. Resume with the same, or choose another folder."
                    )
        for kind, word in (("panels", "panel"), ("optimizers", "optimizer")):
            for name in self.content[kind].keys() & before[kind].keys():
                _check_same(self.folder, word, name, before[kind][name]["fingerprint"], prints[kind][name])
            self.content[kind] = {**before[kind], **self.content[kind]}
        reasons = self.content["left_out"]
        self.content["left_out"] = before["left_out"] | {
            p: before["left_out"].get(p, {}) | r for p, r in reasons.items()
        }

    def comparison(self) -> Comparison:
        """All of it, with names as they can be shown."""
        panels, optimizers = (_shown_names(self.content[kind], self._path) for kind in ("panels", "optimizers"))
        records = {
            shown: {n: r for name, n in optimizers.items() if (r := self.read(panel, name)) is not None}
            for panel, shown in panels.items()
        }
        told = self.content["optimizers"]
        meta = {n: MetaTraining(**t) for name, n in optimizers.items() if (t := told[name]["meta_training"])}
        measured = {
            s: {optimizers[n]: c for n, c in self.read_costs(p).items() if n in optimizers} for p, s in panels.items()
        }
        left_out = {
            s: {
                optimizers[n]: one_line(why)
                for n, why in self.content["left_out"].get(p, {}).items()
                if n in optimizers
            }
            for p, s in panels.items()
        }
        settings = {name: value for name, value in self.content["settings"].items() if value is not None}
        made = {shown: _as_panel(self.content["panels"][name]) for name, shown in panels.items()}
        return Comparison(made, tuple(optimizers.values()), records, left_out, measured, meta, settings)

    def _cell(self, panel, optimizer):
        return self.folder / "cells" / file_name(panel) / f"{file_name(optimizer)}.npz"

    def _fingerprint(self, panel, optimizer) -> str:
        """Says which cell a file is of: on some systems `Adam` and `adam` are one file."""
        prints = (
            self.content["panels"][panel].get("fingerprint"),
            self.content["optimizers"][optimizer]["fingerprint"],
        )
        return " ".join(p or "" for p in prints) if self.content["format"] > 1 else prints[1]

    def write(self, panel, optimizer, record):
        arrays: dict[str, Any] = {"losses": _plain(record.curves.losses)}
        arrays |= {f"metric_{name}": _plain(values) for name, values in record.curves.metrics.items()}
        if record.images is not None:
            arrays["images"] = np.round(255 * record.images).astype(np.uint8)
        if record.tuned is not None:
            arrays |= {f"trial_{k}": v for k, v in record.tuned.grid._asdict().items()}
            arrays |= {"trial_losses": record.tuned.losses, "at_edge": np.asarray(record.tuned.at_edge)}
            arrays["chosen"] = np.argmin(record.tuned.losses)
        file = io.BytesIO()
        told = {
            "learned": record.learned,
            "seconds": record.seconds,
            "fingerprint": self._fingerprint(panel, optimizer),
        }
        np.savez(file, **told, **arrays)
        write_whole(subfolder(self.folder, "cells", file_name(panel)) / f"{file_name(optimizer)}.npz", file.getvalue())

    def read(self, panel, optimizer) -> Record | None:
        path = self._cell(panel, optimizer)
        if not path.is_file():
            return None
        arrays = read_arrays(path, limit=_CELL_BYTES)
        try:
            return self._record(panel, optimizer, arrays)
        except ValueError as error:
            raise ValueError(
                f"{path} is not what l2o recorded there: {error} Delete it to have it run again."
            ) from error

    def _record(self, panel, optimizer, arrays):
        """A cell's record, once every array is known to be of the kind and shape that it should be."""
        it, num_tasks = self.content["panels"][panel], self.content["settings"]["num_tasks"]
        _check(arrays, "losses", "f", (num_tasks, it["run_to"] + 1))
        _check(arrays, "learned", "b", ())
        _check(arrays, "seconds", "f", ())
        _check(arrays, "fingerprint", "U", ())
        if str(arrays["fingerprint"]) != self._fingerprint(panel, optimizer):
            raise ValueError("it is of another optimizer or panel.")
        metrics = {k.removeprefix("metric_"): v for k, v in arrays.items() if k.startswith("metric_")}
        for name in metrics:
            if name != one_line(name) or len(name) > 200:
                raise ValueError(f"a metric is called {shown(name)}.")
            _check(arrays, f"metric_{name}", "biuf", (num_tasks, *arrays[f"metric_{name}"].shape[1:]))
        images = None
        if "images" in arrays:
            shape = arrays["images"].shape
            if (
                arrays["images"].dtype != np.uint8
                or len(shape) != 4
                or shape[3] != 3
                or not all(0 < n <= 2048 for n in shape)
            ):
                raise ValueError(
                    f"`images` are {arrays['images'].dtype} {list(shape)}, not uint8 [num, height, width, 3]."
                )
            images = arrays["images"] / np.float32(255)
        tuned = self._tuned(arrays) if "trial_losses" in arrays else None
        return Record(
            Curves(arrays["losses"], metrics), tuned, bool(arrays["learned"]), images, float(arrays["seconds"])
        )

    def _tuned(self, arrays):
        num = (len(np.atleast_1d(arrays["trial_losses"])),)
        for name, kinds in {"losses": "f", "rate": "f", "schedule": "iu", "weight_decay": "f"}.items():
            _check(arrays, f"trial_{name}", kinds, num)
        _check(arrays, "chosen", "iu", ())
        _check(arrays, "at_edge", "b", ())
        grid = Trial(*(arrays[f"trial_{field}"] for field in Trial._fields))
        sensible = np.isfinite(grid.rate) & (grid.rate > 0) & (grid.schedule >= 0) & (grid.schedule < len(SCHEDULES))
        if not 0 <= int(arrays["chosen"]) < num[0] or not sensible.all():
            raise ValueError("its trials have rates, schedules or a choice that there are none of.")
        value = jax.tree.map(lambda x: x[int(arrays["chosen"])].item(), grid)
        return Tuned(value, bool(arrays["at_edge"]), grid, arrays["trial_losses"])

    def write_costs(self, panel, measured):
        path = subfolder(self.folder, "costs") / f"{file_name(panel)}.json"
        write_whole(path, json.dumps({n: c._asdict() for n, c in measured.items()}, indent=1).encode())

    def read_costs(self, panel) -> dict[str, StepCost]:
        path = self.folder / "costs" / f"{file_name(panel)}.json"
        if not path.is_file():
            return {}
        told = {name: convert(cost, _Cost, path=path, where=name) for name, cost in read_json(path, dict).items()}
        return {name: StepCost(**msgspec.structs.asdict(cost)) for name, cost in told.items()}


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


def _content(path: Path) -> dict[str, Any]:
    """What comparison.json says, as plain containers.

    **Raises:** `ValueError` that names the file and what is wrong with it.
    """
    told = read_json(path, _Content, finite=False)  # of some meta-training the number of steps is not known: NaN
    for name, panel in told.panels.items():
        check_panel(panel, f"{path}: the panel {shown(name)}")
    if not np.isfinite([*told.settings.search.rates, *(told.settings.search.weight_decays or ())]).all():
        raise ValueError(f"{path}: the search's rates and weight decays must be finite.")
    return json.loads(json.dumps(msgspec.to_builtins(told)))  # lists for tuples, as `_described` has them


def check_panel(panel, where: str) -> None:
    """Refuses steps that make no panel: a `ValueError` that begins with `where`."""
    if not 1 <= panel.horizon <= panel.run_to or not 1 <= panel.window <= panel.horizon + 1:
        raise ValueError(
            f"{where} must have 1 <= horizon <= run_to and a window from 1 to the horizon, got horizon={panel.horizon}, "
            f"run_to={panel.run_to}, window={panel.window}."
        )


def _check(arrays, name, kinds, shape) -> None:
    if name not in arrays:
        raise ValueError(f"it has no `{name}`.")
    found = arrays[name]
    if found.dtype.kind not in kinds or found.shape != shape:
        raise ValueError(f"`{name}` is {found.dtype} {list(found.shape)}, expected {list(shape)} of kind {kinds}.")


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


def _shown_names(names, path) -> dict[str, str]:
    """Names as they can be shown, by what they are in the file."""
    found = {name: one_line(name) for name in names}
    if len(set(found.values())) < len(found):
        twice = next(n for n, count in Counter(found.values()).items() if count > 1)
        raise ValueError(f"{path}: several panels or optimizers would be shown as {shown(twice)}.")
    return found


def _as_panel(told: dict[str, Any]) -> Panel:
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k in Panel._fields}
    return Panel(make=gone, **{**fields, "source": one_line(fields["source"])})


def _described(panel: Panel) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in panel._asdict().items() if k != "make"}


def _or_none(fingerprint: str | Unfingerprintable) -> str | None:
    return fingerprint if isinstance(fingerprint, str) else None


def _plain(array) -> np.ndarray:
    """Of JAX's dtypes those that NumPy's files do not know, such as bfloat16, in single precision."""
    array = np.asarray(array)
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def _both_nan(old, new) -> bool:
    return str(old) == str(new)


def _short(value) -> str:
    return textwrap.shorten(str(value), 300)
