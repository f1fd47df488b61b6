"""An optimizer's state on disk, for PyTorch and JAX alike; `l2o.optimizers.states`, the other side, describes the format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2o.io import weights as _weights
from l2o.io.door import shown
from l2o.io.files import check_writable, write_whole
from l2o.torch._build import of_part
from l2o.torch._coordinates import count, flat
from l2o.torch._optimizer import LearnedOptimizer
from l2o.torch._options import load_weights
from l2o.torch._rule import AbstractListwise


def save_state(path: str | Path, optimizer: LearnedOptimizer) -> None:
    """Writes the states and rates of all groups to a safetensors file, whole or not at all. Nothing is pickled.

    `load_state` reads it; a group can also be continued in JAX by `l2o.optimizers.states.load`. The parameters are yours to save.

    **Raises:** `OSError` if `path` cannot be written.
    """
    import safetensors.torch

    arrays, groups = {}, []
    for index, group in enumerate(optimizer.param_groups):
        rule = optimizer._rule(index, torch.device("cpu"))
        if isinstance(rule, AbstractListwise):
            parts = _joined(rule, [(p, optimizer.state.get(p) or rule.init(p)) for p in group["params"]])
        else:
            states = [rule.init(0, torch.device("cpu")), *(optimizer._state_of(rule, p).cpu() for p in group["params"])]
            parts = rule.unpack(torch.cat(states, dim=1))
        arrays |= {f"{index}{name}": part.contiguous() for name, part in parts.items()}
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

        def part(name, *shapes, kinds="f", index=index):
            array = arrays.get(f"{index}{name}")
            if array is None or array.shape not in shapes or array.dtype.kind not in kinds:
                found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise ValueError(
                    f"The state in {path} is of another optimizer (leaf {index}{name}: {found} vs numbers {list(shapes[0])})."
                )
            return torch.from_numpy(array)

        if isinstance(rule, AbstractListwise):
            loaded.append(_split(rule, group["params"], part))
            continue
        num = sum(count(p) for p in group["params"])
        parts = {name: part(name, (*shape, num)).to(rule.dtype) for name, shape in rule.state_shapes.items()}
        states = rule.pack(parts).split([count(p) for p in group["params"]], dim=1)
        loaded.append([{"state": state.to(p.device)} for p, state in zip(group["params"], states, strict=True)])
    for saved, group, states in zip(groups, optimizer.param_groups, loaded, strict=True):
        group.update(saved.options)
        for p, state in zip(group["params"], states, strict=True):
            optimizer.state[p].update(state)


def _joined(rule: AbstractListwise, states: list[tuple[Tensor, dict[str, Any]]]) -> dict[str, Tensor]:
    """The states of a group's parameters by the paths of JAX. Numbers are one for all that have taken the same steps."""
    parts = {}
    for name, path in rule.paths.items():
        if name in rule.numbers:
            found = [state[name] for _, state in states]
            dtype = torch.int64 if isinstance(rule.numbers[name], int) else torch.float64
            parts[path] = torch.tensor(found[0] if len(set(found)) == 1 else found, dtype=dtype)
        else:
            parts[path] = torch.cat([flat(state[name]).cpu() for _, state in states])
    return parts


def _split(rule: AbstractListwise, params: list[Tensor], part: Callable[..., Tensor]) -> list[dict[str, Any]]:
    """The inverse of `_joined`; `part` finds an array by its path, or refuses it if it is of none of some shapes."""
    states: list[dict[str, Any]] = [{} for _ in params]
    for name, start in rule.numbers.items():
        found = part(rule.paths[name], (), (len(params),), kinds="iu" if isinstance(start, int) else "f")
        for state, number in zip(states, found.expand(len(params)).tolist(), strict=True):
            state[name] = number
    wanted = [rule.shapes(p) for p in params]
    for name in wanted[0] if wanted else ():
        sizes = [shapes[name][0].numel() * (2 if shapes[name][1].is_complex else 1) for shapes in wanted]
        pieces = part(rule.paths[name], (sum(sizes),)).split(sizes)
        for p, state, shapes, piece in zip(params, states, wanted, pieces, strict=True):
            shape, dtype = shapes[name]
            if dtype.is_complex:
                piece = torch.view_as_complex(piece.view(*shape, 2).to(dtype.to_real(), copy=True))
            # As `init` lays it out in memory.
            state[name] = torch.zeros_like(p, dtype=dtype).copy_(piece.view(shape))
    return states


def _description(group) -> dict[str, Any]:
    weights = group["weights"] if isinstance(group["weights"], dict) else load_weights(group["weights"])
    weights = of_part(weights, group.get("part"))
    shapes = [list(p.shape) for p in group["params"]]
    return {"architecture": weights["architecture"], "arguments": weights["arguments"], "shapes": shapes}


def _is_rate(name, value) -> bool:
    """`lr`, `weight_decay`, and what schedulers add, such as `initial_lr`."""
    return name != "weights" and isinstance(value, bool | int | float | str)
