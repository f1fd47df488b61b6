"""What a comparison recorded, and the folder that it is kept in.

FOLDER/comparison.json               what is compared: panels, optimizers, search, keys
FOLDER/cells/PANEL/OPTIMIZER.npz     curves, metrics and trials of one cell, written whole or not at all
FOLDER/costs/PANEL.json              what a step costs each of them, measured side by side
"""

import io
import json
import textwrap
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jax
import numpy as np
from jaxtyping import Float

from l2o._files import check_writable, write_whole
from l2o._panel import Panel
from l2o.costs import MetaTraining, StepCost
from l2o.evaluation import Curves
from l2o.tuning import Trial, Tuned


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

    **Raises:** `FileNotFoundError` if the folder holds no comparison.
    """
    return Store.reading(Path(folder)).comparison()


def gone():
    """The `make` of a panel that was loaded."""
    raise ValueError(
        "This comparison was loaded from its records, which hold no functions. Take the panel from its suite."
    )


class Store:
    """The folder of a comparison. `optimizers`: of each, what comparison.json says: "learned", "fingerprint", "meta_training"."""

    def __init__(self, folder, resume, panels, optimizers, settings, left_out):
        self.folder = folder
        self.fingerprints = {name: told["fingerprint"] for name, told in optimizers.items()}
        described = {name: _described(panel) for name, panel in panels.items()}
        self.content = {"settings": settings, "panels": described, "optimizers": optimizers, "left_out": left_out}
        if self._path.exists():
            if not resume:
                raise FileExistsError(
                    f"{folder} already holds a comparison. Pass resume=True (`--resume`) to go on with it, or choose another "
                    "folder."
                )
            self._join(json.loads(self._path.read_text()))
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
        store.content = json.loads(store._path.read_text())
        store.fingerprints = {name: o["fingerprint"] for name, o in store.content["optimizers"].items()}
        return store

    @property
    def _path(self):
        return self.folder / "comparison.json"

    def _join(self, before):
        """Old panels and optimizers are kept; what both have must agree."""
        pairs = [("settings", before["settings"], self.content["settings"])]
        for kind in ("panels", "optimizers"):
            pairs += [(n, before[kind][n], new) for n, new in self.content[kind].items() if n in before[kind]]
        for what, old, new in pairs:
            for field in old.keys() | new.keys():
                if old.get(field) != new.get(field):
                    raise ValueError(
                        f"The comparison in {self.folder} was made with other {what}: {field} is {_short(old.get(field))} there, "
                        f"{_short(new.get(field))} here. Resume with the same, or choose another folder."
                    )
        for kind in ("panels", "optimizers"):
            self.content[kind] = {**before[kind], **self.content[kind]}
        reasons = self.content["left_out"]
        self.content["left_out"] = before["left_out"] | {
            p: before["left_out"].get(p, {}) | r for p, r in reasons.items()
        }

    def comparison(self) -> Comparison:
        panels = {name: Panel(make=gone, **_with_tuples(panel)) for name, panel in self.content["panels"].items()}
        optimizers = self.content["optimizers"]
        records = {p: {n: r for n in optimizers if (r := self.read(p, n)) is not None} for p in panels}
        meta = {n: MetaTraining(**o["meta_training"]) for n, o in optimizers.items() if o["meta_training"]}
        measured = {p: self.read_costs(p) for p in panels}
        return Comparison(
            panels, tuple(optimizers), records, self.content["left_out"], measured, meta, self.content["settings"]
        )

    def _cell(self, panel, optimizer):
        return self.folder / "cells" / quote(panel, safe="") / f"{quote(optimizer, safe='')}.npz"

    def write(self, panel, optimizer, record):
        arrays: dict[str, Any] = {"losses": record.curves.losses}
        arrays |= {f"metric_{name}": values for name, values in record.curves.metrics.items()}
        if record.images is not None:
            arrays["images"] = np.round(255 * record.images).astype(np.uint8)
        if record.tuned is not None:
            arrays |= {f"trial_{k}": v for k, v in record.tuned.grid._asdict().items()}
            arrays |= {"trial_losses": record.tuned.losses, "at_edge": np.asarray(record.tuned.at_edge)}
            arrays["chosen"] = np.argmin(record.tuned.losses)
        file = io.BytesIO()
        np.savez(
            file,
            learned=record.learned,
            seconds=record.seconds,
            fingerprint=self.fingerprints[optimizer],
            **arrays,
        )
        path = self._cell(panel, optimizer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, file.getvalue())

    def read(self, panel, optimizer) -> Record | None:
        path = self._cell(panel, optimizer)
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        metrics = {k.removeprefix("metric_"): v for k, v in arrays.items() if k.startswith("metric_")}
        tuned = None
        if "trial_losses" in arrays:
            grid = Trial(*(arrays[f"trial_{field}"] for field in Trial._fields))
            value = jax.tree.map(lambda x: x[int(arrays["chosen"])].item(), grid)
            tuned = Tuned(value, bool(arrays["at_edge"]), grid, arrays["trial_losses"])
        images = arrays["images"] / np.float32(255) if "images" in arrays else None
        return Record(
            Curves(arrays["losses"], metrics), tuned, bool(arrays["learned"]), images, float(arrays["seconds"])
        )

    def write_costs(self, panel, measured):
        path = self.folder / "costs" / f"{quote(panel, safe='')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({n: c._asdict() for n, c in measured.items()}, indent=1).encode())

    def read_costs(self, panel) -> dict[str, StepCost]:
        path = self.folder / "costs" / f"{quote(panel, safe='')}.json"
        if not path.is_file():
            return {}
        return {n: StepCost(**c) for n, c in json.loads(path.read_text()).items()}


def _described(panel: Panel) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in panel._asdict().items() if k != "make"}


def _short(value) -> str:
    return textwrap.shorten(str(value), 300)


def _with_tuples(panel: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in panel.items()}
