"""An optimizer's state on disk, for PyTorch and JAX alike; `l2o.optimizers.states`, the other side, describes the format."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2o.io import weights as _weights
from l2o.io.door import shown
from l2o.io.files import check_writable, write_whole
from l2o.torch._build import of_part
from l2o.torch._coordinates import count
from l2o.torch._optimizer import LearnedOptimizer
from l2o.torch._options import load_weights


def save_state(path: str | Path, optimizer: LearnedOptimizer) -> None:
    """Writes the states and rates of all groups to a safetensors file, whole or not at all. Nothing is pickled.

    `load_state` reads it; a group can also be continued in JAX by `l2o.optimizers.states.load`. The parameters are yours to save.

    **Raises:** `OSError` if `path` cannot be written.
    """
    import safetensors.torch

    arrays, groups = {}, []
    for index, group in enumerate(optimizer.param_groups):
        rule = optimizer._rule(index, torch.device("cpu"))
        states = [rule.init(0, torch.device("cpu")), *(optimizer._state_of(rule, p).cpu() for p in group["params"])]
        for name, part in rule.unpack(torch.cat(states, dim=1)).items():
            arrays[f"{index}{name}"] = part.contiguous()
        options = {name: float(v) if isinstance(v, Tensor) else v for name, v in group.items()}
        groups.append({**_description(group), "options": {k: v for k, v in options.items() if _is_rate(k, v)}})
    path = Path(path)
    check_writable(path.absolute().parent)
    # Groups may share a tensor's storage, which safetensors refuses: every part is a copy of its own.
    content = safetensors.torch.save(
        {name: array.clone() for name, array in arrays.items()},
        metadata={"format": _weights.STATE_FORMAT, "groups": json.dumps(groups)},
    )
    write_whole(path, content)


def load_state(path: str | Path, optimizer: LearnedOptimizer) -> None:
    """Puts the states and rates that `save_state` (or `l2o.optimizers.states.save`, which knows no rates) wrote into `optimizer`.

    **Raises:** `ValueError` if the file is not whole or not of a state, or is of other groups, parameter shapes or weights'
    architecture and arguments than the optimizer's; the optimizer is then unchanged.
    """
    arrays, groups = _weights.read_state(Path(path))
    if len(groups) != len(optimizer.param_groups):
        raise ValueError(
            f"{path} holds {len(groups)} parameter groups, the optimizer has {len(optimizer.param_groups)}. Make it with the "
            "same groups first."
        )
    loaded = []
    for index, (saved, group) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        ours = _description(group)
        # Some options choose the rule: these a file may confirm, but not change.
        ours |= {option: group.get(option) for option in ("part", "beyond") if option in saved.options}
        for what, value in ours.items():
            found = saved.options[what] if what in saved.options else getattr(saved, what)
            if found != value:
                raise ValueError(f"Group {index} in {path} has {what} {shown(found)}, the optimizer's {value}.")
        rule = optimizer._rule(index, torch.device("cpu"))
        num = sum(count(p) for p in group["params"])
        parts = {}
        for name, shape in rule.state_shapes.items():
            array = arrays.get(f"{index}{name}")
            if array is None or array.shape != (*shape, num) or array.dtype.kind != "f":
                found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise ValueError(
                    f"The state in {path} is of another optimizer (leaf {index}{name}: {found} vs numbers {[*shape, num]})."
                )
            parts[name] = torch.from_numpy(array).to(rule.dtype)
        loaded.append(rule.pack(parts).split([count(p) for p in group["params"]], dim=1))
    for saved, group, states in zip(groups, optimizer.param_groups, loaded, strict=True):
        group.update(saved.options)
        for p, state in zip(group["params"], states, strict=True):
            optimizer.state[p]["state"] = state.to(p.device)


def _description(group) -> dict[str, Any]:
    weights = group["weights"] if isinstance(group["weights"], dict) else load_weights(group["weights"])
    weights = of_part(weights, group.get("part"))
    shapes = [list(p.shape) for p in group["params"]]
    return {"architecture": weights["architecture"], "arguments": weights["arguments"], "shapes": shapes}


def _is_rate(name, value) -> bool:
    """`lr`, `weight_decay`, and what schedulers add, such as `initial_lr`."""
    return name != "weights" and isinstance(value, bool | int | float | str)
