"""What weights files may say: the fields of their headers; every architecture's arguments, and the arrays they mean.

It is all checked before anything is built, the same for JAX and PyTorch, and so without either. A new header field is a line
in `Header`, a new wrapper an entry in `WRAPPERS`, and a new architecture one in `ARCHITECTURES`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from l2o.io import door
from l2o.io.door import refused, shown

# The "architecture" of files of `l2o.Partitioned`: its arguments are its parts' architectures and arguments, by name.
PARTITIONED = "partitioned"
# Of `l2o.Rescaled`: its arguments are the architecture and arguments of what it wraps, "optimizer", and "rms".
RESCALED = "rescaled"
# Of `l2o.Preconditioned`: as of that, and the "shapes" of the leaves that it has factors for.
PRECONDITIONED = "preconditioned"
# Of any other class: its arguments are its name, "class", which is never looked up, and its plain fields.
OWN = "own"

_DEPTH = 8  # of wrappers within wrappers
# Sizes are bounded by the arrays of the file as well, if they decide on shapes; these bounds are far beyond any sense.
_Size = Annotated[int, Meta(ge=1, le=10_000)]
_SizeOrNone = Annotated[int, Meta(ge=0, le=10_000)]
_Scale = Annotated[float, Meta(gt=0, le=1e6)]
_Preprocessing = Annotated[float, Meta(gt=0, le=80)]  # e^p must be finite in single precision
_Rms = Annotated[float, Meta(gt=0, le=1e30)]
_Magnitude = Annotated[float, Meta(ge=0, le=1e39)]
_Amount = Annotated[float, Meta(ge=0, le=1e18)]
_Steps = Annotated[int, Meta(ge=1, le=10**9)]
_Text = Annotated[str, Meta(max_length=1000)]
_Knots = Annotated[list[float], Meta(max_length=100)]  # of a curve whose values are an array: only their number is used
_Shape = Annotated[list[Annotated[int, Meta(ge=0, le=10**9)]], Meta(max_length=16)]
_Quantiles = tuple[_Magnitude, _Magnitude, _Magnitude]

Shape = tuple[int, ...]


class Recipe(msgspec.Struct):
    """What is used of a recipe, which may say anything else besides."""

    task: _Text = ""
    task_arguments: dict[str, Any] = {}
    horizon: _Steps = 1
    seconds: _Amount = 0
    num_episodes: _Amount = 0
    num_inner_steps: _Amount = 0


class Scale(msgspec.Struct):
    """As `l2o.core.scale.gradient_scale` found it."""

    start: _Quantiles
    run: _Quantiles
    num_params: Annotated[int, Meta(ge=0, le=10**15)] = 0
    num_tasks: Annotated[int, Meta(ge=0, le=10**9)] = 0

    def __post_init__(self):
        if list(self.start) != sorted(self.start) or list(self.run) != sorted(self.run):
            raise ValueError(f"quantiles must not fall, got start={self.start} and run={self.run}")


class Beyond(msgspec.Struct):
    """As `l2o.core.horizons.losses_beyond` found it: how the loss went on after the horizon. None where it said nothing."""

    multiples: Annotated[list[_Size], Meta(max_length=16)]
    ratios: Annotated[list[_Magnitude | None], Meta(max_length=16)]
    worst: Annotated[list[_Magnitude | None], Meta(max_length=16)]
    num_tasks: Annotated[int, Meta(ge=1, le=10**9)] = 1

    def __post_init__(self):
        if not len(self.multiples) == len(self.ratios) == len(self.worst):
            raise ValueError("there must be one of its ratios, and of its worst, for each of its multiples")


class Header(msgspec.Struct):
    """Of a weights file, decoded. A file may have further fields, as strings."""

    architecture: _Text
    arguments: dict[str, Any]
    recipe: Recipe
    licence: _Text
    versions: dict[str, _Text]
    scale: Scale | None = None
    horizon: _Steps | None = None
    beyond: Beyond | None = None


# Fields that the file holds as JSON. Those of a recipe may be infinite, such as the best loss of a run that diverged.
_JSON_FIELDS = tuple(
    field.name for field in msgspec.structs.fields(Header) if field.name not in ("architecture", "licence")
)


class Structure(msgspec.Struct, forbid_unknown_fields=True):
    """What a wrapper says of an optimizer within it."""

    architecture: _Text
    arguments: dict[str, Any]


class _Wrapper(msgspec.Struct, forbid_unknown_fields=True):
    def inside(self) -> dict[str, Structure]:
        """The optimizers in it by their paths: fields of its arguments and, after a dot, beginnings of its arrays' names."""
        raise NotImplementedError

    def own(self) -> Iterable[tuple[str, Shape]]:
        """Names and shapes of the arrays that are its own: by default none are."""
        return ()


class _Partitioned(_Wrapper, forbid_unknown_fields=True):
    parts: Annotated[dict[Annotated[str, Meta(max_length=100)], Structure], Meta(min_length=1, max_length=64)]
    label: Literal["top", "leaf", "rank"] = "top"

    def __post_init__(self):
        for name in self.parts:
            if door.one_line(name) != name:
                raise ValueError(f"a part's name must be printable, got {shown(name)}")

    def inside(self) -> dict[str, Structure]:
        return {f"parts[{name!r}]": part for name, part in self.parts.items()}


class _Rescaled(_Wrapper, forbid_unknown_fields=True):
    optimizer: Structure
    rms: _Rms

    def __post_init__(self):
        if self.optimizer.architecture == PARTITIONED:
            raise ValueError("what is rescaled must be a rule on all coordinates, not a partitioned one")

    def inside(self) -> dict[str, Structure]:
        return {"optimizer": self.optimizer}


class _Preconditioned(_Wrapper, forbid_unknown_fields=True):
    optimizer: Structure
    shapes: Annotated[list[_Shape], Meta(min_length=1, max_length=1000)]

    def inside(self) -> dict[str, Structure]:
        return {"optimizer": self.optimizer}

    def own(self) -> Iterator[tuple[str, Shape]]:
        yield from ((f".log_factors[{i}]", tuple(shape)) for i, shape in enumerate(self.shapes))


# By the "architecture" that the file names; the arguments are the fields.
WRAPPERS: dict[str, type[_Wrapper]] = {
    PARTITIONED: _Partitioned,
    PRECONDITIONED: _Preconditioned,
    RESCALED: _Rescaled,
}


class _LSTM(msgspec.Struct, forbid_unknown_fields=True):
    num_layers: _Size = 2
    num_units: _Size = 20
    preprocessing: _Preprocessing | None = 10.0
    output_scale: _Scale = 0.1
    num_global: _SizeOrNone = 0

    def __post_init__(self):
        _check_global(self)

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        inputs = 1 if self.preprocessing is None else 2
        yield from _cells(inputs, self.num_units, self.num_layers)
        yield ".readout", (self.num_units,)
        yield ".bias", ()


class _NTMBFGS(msgspec.Struct, forbid_unknown_fields=True):
    num_layers: _Size = 2
    num_units: _Size = 20
    num_global: _SizeOrNone = 5
    num_read: _Size = 1
    num_write: _Size = 3
    memory_pairs: _Size | None = None
    preprocessing: _Preprocessing | None = None
    output_scale: _Scale = 0.01
    normalised: bool = True
    differences: bool = True
    skips: bool = True

    def __post_init__(self):
        _check_global(self)

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        scalars = 2 if self.differences else 0
        vectors = 2 if self.differences else 1
        inputs = (1 if self.preprocessing is None else 2) + self.num_read + (3 + scalars if self.differences else 0)
        outputs = 1 + self.num_read + 2 * self.num_write
        if self.skips:
            outputs += 1 + 2 * self.num_write * vectors
        yield from _cells(inputs, self.num_units, self.num_layers)
        yield ".readout", (outputs, self.num_units + scalars)
        yield ".bias", (outputs,)


class _Momentum(msgspec.Struct, forbid_unknown_fields=True):
    horizon: _Steps
    decay: Literal["constant", "linear", "cosine"] = "constant"
    rate_curve: _Knots = []
    b1_curve: _Knots = []
    power: Annotated[float, Meta(ge=0, le=1)] = 0.5
    learn_power: bool = False
    nesterov: bool = True
    bias_correction: bool = True

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        scalars = ["log_rate", "log_warmup", "logit_least", "logit_b1"]
        if self.learn_power or self.power > 0:
            scalars += ["logit_b2", "log_eps"]
        if self.learn_power:
            scalars += ["logit_power"]
        yield from ((f".{name}", ()) for name in scalars)
        for name, curve in ((".rate_curve", self.rate_curve), (".b1_curve", self.b1_curve)):
            if curve:
                yield name, (len(curve),)


class _HandDesigned(msgspec.Struct, forbid_unknown_fields=True):
    name: Literal["adagrad", "adam", "adamw", "lion", "momentum", "muon", "nag", "rmsprop", "schedule_free_adam", "sgd"]
    horizon: _Steps
    schedule: Literal["constant", "cosine", "warmup_cosine"] = "constant"
    weight_decay: _Magnitude | None = None

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        yield ".log_rate", ()


class _Own(msgspec.Struct):
    """Of a class that a file cannot make. Further fields are its constants, for whoever loads it to compare."""

    class_: _Text = msgspec.field(name="class")


def own(architecture: str, arguments: Mapping[str, Any], depth: int = 1) -> str | None:
    """The name of the first class that only its owner can make, of this optimizer or of one within it; None: there is none."""
    if architecture == OWN:
        return door.one_line(arguments["class"])
    if architecture not in WRAPPERS or depth > _DEPTH:
        return None
    inside = door.convert(arguments, WRAPPERS[architecture], path="", where="").inside().values()
    return next((name for one in inside if (name := own(one.architecture, one.arguments, depth + 1))), None)


class _Architecture(Protocol):
    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Names and shapes of its arrays, made one by one: a file may claim any number of layers."""
        ...


# By module of `l2o.optimizers`: its classes' arguments, with their defaults. (A test compares.)
ARCHITECTURES: dict[str, type[_Architecture]] = {
    "hand_designed": _HandDesigned,
    "lstm": _LSTM,
    "momentum": _Momentum,
    "ntm_bfgs": _NTMBFGS,
}


def _check_global(arguments):
    if arguments.num_global > arguments.num_units:
        raise ValueError(
            f"`num_global` must be from 0 to `num_units`, got num_global={arguments.num_global} and "
            f"num_units={arguments.num_units}"
        )


def _cells(num_inputs, num_units, num_layers):
    for layer in range(num_layers):
        yield f".cells[{layer}].weight", (4 * num_units, (num_units if layer else num_inputs) + num_units)
        yield f".cells[{layer}].bias", (4 * num_units,)


def decoded(header: Mapping[str, str], where: Any) -> dict[str, Any]:
    """A weights file's header, its JSON decoded and all of `Header`'s fields checked; `where` is the file, for messages.

    **Raises:** `ValueError`.
    """
    found = {
        name: door.parse_json(text, Any, path=where, where=name, finite=name != "recipe")
        if name in _JSON_FIELDS
        else text
        for name, text in header.items()
    }
    door.convert(found, Header, path=where)
    return found


def horizon(told: Mapping[str, Any]) -> int | None:
    """The steps that the rule of a decoded header was meta-trained for; older files say so in their recipe alone."""
    return told.get("horizon") or told["recipe"].get("horizon")


def check(architecture: str, arguments: Any, shapes: Mapping[str, Shape], where: Any) -> None:
    """Refuses arguments that their architecture does not take, and arrays, given by their `shapes`, that are not its own.

    **Raises:** `ValueError` naming `where` and the field or array.
    """
    missing = set(shapes)
    for name, shape in _expected(architecture, arguments, where, "arguments", ""):
        if shape is None:  # of a class that only its owner knows
            missing -= {there for there in missing if there.startswith(name)}
            continue
        if shapes.get(name) != shape:
            found = shapes.get(name, "nothing")
            raise ValueError(
                f"{door.one_line(where)} has arrays that do not fit their arguments (leaf {name}: {found} vs {shape})."
            )
        missing.discard(name)
    if missing:
        raise refused(where, min(missing)[:100], f"an array that the architecture {architecture} does not have")


def _expected(architecture, arguments, where, field, path, depth=1) -> Iterator[tuple[str, Shape | None]]:
    """Names and shapes (None: any) of the arrays, while they are asked for.

    `field` and `path` lead to the arguments and the arrays.
    """
    if depth > _DEPTH:
        raise refused(where, field, f"wrappers are nested deeper than {_DEPTH} levels")
    if architecture in WRAPPERS:
        wrapper = door.convert(arguments, WRAPPERS[architecture], path=where, where=field)
        yield from ((f"{path}{name}", shape) for name, shape in wrapper.own())
        for name, inner in wrapper.inside().items():
            inside = f"{field}.{name}"
            yield from _expected(
                inner.architecture, inner.arguments, where, f"{inside}.arguments", f"{path}.{name}", depth + 1
            )
    elif architecture == OWN:
        door.convert(arguments, _Own, path=where, where=field)
        yield path, None
    elif architecture in ARCHITECTURES:
        for name, shape in door.convert(arguments, ARCHITECTURES[architecture], path=where, where=field).shapes():
            yield f"{path}{name}", shape
    else:
        raise ValueError(
            f"{door.one_line(where)}: No optimizer named {shown(architecture)}. Optimizers: {', '.join(ARCHITECTURES)}. It was "
            "written by another version of l2o, or not by l2o."
        )
