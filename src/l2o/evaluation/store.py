"""The folder that a comparison is kept in.

FOLDER/comparison.json               what is compared: panels, optimizers, search, keys
FOLDER/cells/PANEL/OPTIMIZER.npz     curves, metrics and trials of one cell, written whole or not at all
FOLDER/costs/PANEL.json              what a step costs each of them, measured side by side
"""

import json
from collections import Counter
from typing import Any

from l2o.evaluation import cell_file, comparison_file
from l2o.evaluation.costs import MetaTraining, StepCost
from l2o.evaluation.panel import Panel
from l2o.evaluation.records import Comparison, Record
from l2o.io.digest import Unfingerprintable
from l2o.io.door import one_line, shown
from l2o.io.files import check_writable, subfolder, write_whole
from l2o.io.names import file_name


class Store:
    """The folder of a comparison, held by the caller (`l2o.io.files.held`) where it is written to.

    **Arguments:** `optimizers`: of each, what comparison.json says ("learned", "meta_training"). `prints`: of optimizers and of
    panels' families, how they are told from others; an `Unfingerprintable` instead of what cannot be.
    """

    def __init__(self, folder, resume, panels, optimizers, settings, left_out, prints):
        self.folder = folder
        for name, panel in panels.items():
            comparison_file.check_panel(panel, f"The panel {name!r}")
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
            self.content = comparison_file.joined(comparison_file.read(self._path), self.content, prints, folder)
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
        store.content = comparison_file.read(store._path)
        return store

    @property
    def _path(self):
        return self.folder / "comparison.json"

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

    def write(self, panel: str, optimizer: str, record: Record) -> None:
        """Keeps the record of a cell, whole or not at all."""
        encoded = cell_file.encoded(record, self._fingerprint(panel, optimizer))
        write_whole(subfolder(self.folder, "cells", file_name(panel)) / f"{file_name(optimizer)}.npz", encoded)

    def read(self, panel: str, optimizer: str) -> Record | None:
        """The record of a cell; None if there is none yet."""
        path = self._cell(panel, optimizer)
        if not path.is_file():
            return None
        num_tasks, run_to = self.content["settings"]["num_tasks"], self.content["panels"][panel]["run_to"]
        return cell_file.read(path, num_tasks=num_tasks, run_to=run_to, fingerprint=self._fingerprint(panel, optimizer))

    def write_costs(self, panel, measured):
        path = subfolder(self.folder, "costs") / f"{file_name(panel)}.json"
        write_whole(path, json.dumps({n: c._asdict() for n, c in measured.items()}, indent=1).encode())

    def read_costs(self, panel) -> dict[str, StepCost]:
        path = self.folder / "costs" / f"{file_name(panel)}.json"
        if not path.is_file():
            return {}
        return comparison_file.read_costs(path)


def gone():
    """The `make` of a panel that was loaded."""
    raise ValueError(
        "This comparison was loaded from its records, which hold no functions. Take the panel from its suite."
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
