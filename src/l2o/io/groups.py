"""What a state file of PyTorch says of the parameter groups it is of."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from l2o.io import door
from l2o.io.door import shown

_Text = Annotated[str, Meta(max_length=1000)]


class Group(msgspec.Struct):
    """What a state file says of one parameter group."""

    architecture: _Text
    arguments: dict[str, Any]
    shapes: list[list[Annotated[int, Meta(ge=0, le=2**48)]]]
    options: dict[Annotated[str, Meta(max_length=100)], bool | int | float | _Text] = {}

    def __post_init__(self):
        for name, value in self.options.items():
            # What these name is read, or chosen, by the optimizer; a file does not.
            if not name.isidentifier() or name in ("params", "weights"):
                raise ValueError(f"no option of a parameter group is named {shown(name)}")
            if name in ("lr", "weight_decay") and (isinstance(value, bool | str) or not 0 <= value < float("inf")):
                raise ValueError(f"`{name}` must be a number that is not negative, got {shown(value)}")


def read(text: str, where: Any) -> list[Group]:
    """The parameter groups of a state file, from its header.

    **Raises:** `ValueError`.
    """
    return door.parse_json(text, list[Group], path=where, where="groups")
