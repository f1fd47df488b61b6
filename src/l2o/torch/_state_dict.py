"""What a state_dict must be before a `LearnedOptimizer` loads it. Everything is checked before anything changes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l2o.torch._coordinates import count, named
from l2o.torch._rule import AbstractListwise, Rule

# What DistributedDataParallel and torch.compile put before the names of a model's parameters.
_WRAPPERS = re.compile(r"\b(module|_orig_mod)\.")


def check_groups(state_dict: Mapping[str, Any], groups: Sequence[dict[str, Any]], needed: Iterable[str]) -> None:
    """**Raises:** `ValueError` if its groups are not those of an optimizer with these `groups`, or lack what is `needed`."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        found = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else type(state_dict).__name__
        raise ValueError(
            f'A state_dict has "state" and "param_groups", got {found}. Pass what `state_dict()` returned.'
        )
    saved_groups = state_dict["param_groups"]
    if len(saved_groups) != len(groups):
        raise ValueError(
            f"The state_dict holds {len(saved_groups)} parameter groups, the optimizer has {len(groups)}. Make it with the "
            "same groups first."
        )
    for index, (saved, group) in enumerate(zip(saved_groups, groups, strict=True)):
        missing = [name for name in ("params", *needed) if name not in saved]
        if missing:
            raise ValueError(
                f"Group {index} of the state_dict has no {', '.join(map(repr, missing))}, and so is not of a "
                f"LearnedOptimizer. It has {', '.join(map(repr, saved))}."
            )
        if len(saved["params"]) != len(group["params"]):
            raise ValueError(
                f"Group {index} of the state_dict is of {len(saved['params'])} parameters, the optimizer's of "
                f"{len(group['params'])}. Make it with the same parameters first."
            )
        ours, theirs = ([_WRAPPERS.sub("", n) for n in g.get("param_names", ())] for g in (group, saved))
        for position, (our, their) in enumerate(zip(ours, theirs, strict=False)):
            if our != their:
                raise ValueError(
                    f"The state_dict's parameter {position} of group {index} is {their!r}, the optimizer's {our!r}. Pass the "
                    "parameters in the order in which they were saved."
                )


def check_states(state_dict: Mapping[str, Any], groups: Sequence[dict[str, Any]], rules: Sequence[Rule]) -> None:
    """**Raises:** `ValueError` if a state does not fit its parameter and the rule that is to go on with it."""
    left = set(state_dict["state"])
    for index, (saved, group, rule) in enumerate(zip(state_dict["param_groups"], groups, rules, strict=True)):
        for position, (key, p) in enumerate(zip(saved["params"], group["params"], strict=True)):
            left.discard(key)
            entry = state_dict["state"].get(key)
            if not entry:  # it has not taken a step
                continue
            problem = _problem(entry, p, rule)
            if problem:
                raise ValueError(
                    f"The state_dict does not fit {named(group, index, position)}, of shape {tuple(p.shape)}: {problem} "
                    "Nothing was loaded."
                )
    if left:
        raise ValueError(
            f"The state_dict holds states of parameters that none of its groups has: {', '.join(map(repr, left))}. It is not "
            "whole."
        )


def _problem(entry, p, rule) -> str | None:
    if isinstance(rule, AbstractListwise):
        if not isinstance(entry, Mapping):
            return f"its state is of another optimizer (it is a {type(entry).__name__})."
        return rule.problem(entry, p)
    state = entry.get("state") if isinstance(entry, Mapping) else None
    if not isinstance(state, Tensor):
        return f'its state has no tensor named "state", and so is of another optimizer (it has {_keys(entry)}).'
    expected = (rule.num_rows, count(p))
    if state.layout != torch.strided or tuple(state.shape) != expected:
        return f"its state has shape {tuple(state.shape)}, and must have {expected}, a column for each coordinate."
    if state.dtype != rule.dtype:
        return f"its state is of {state.dtype}, the saved weights of {rule.dtype}."
    shape = entry.get("shape")
    if shape is not None and tuple(shape) != tuple(p.shape):
        return f"its state is of a parameter of shape {tuple(shape)}."
    return None


def _keys(entry) -> str:
    return ", ".join(map(repr, entry)) if isinstance(entry, Mapping) else type(entry).__name__
