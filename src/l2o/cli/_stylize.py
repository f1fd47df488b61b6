"""`l2o stylize`."""

import io
import math
from pathlib import Path
from typing import Annotated

import equinox as eqx
import jax
import numpy as np
import typer
from jaxtyping import UInt8
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import l2o
from l2o.cli import _pictures as pictures
from l2o.cli._common import Seed, console
from l2o.evaluation import comparison
from l2o.io.files import check_writable, write_whole
from l2o.tasks import style as neural_art

LARGEST = 512  # pixels, unless asked for: a photograph at its own size would take hours
RATE = 0.02


def stylize(
    content: Annotated[Path, typer.Option(help="The picture to paint: JPEG, PNG or whatever else Pillow reads.")],
    style: Annotated[Path, typer.Option(help="The picture whose style to paint it in.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The PNG to write. Default: CONTENT-STYLE.png, here.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Longest side of the result, in pixels. Default: the content's own, but at most 512."),
    ] = None,
    style_size: Annotated[
        int | None,
        typer.Option(help="Longest side the style is resized to, in pixels: larger strokes. Default: the result's."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimization steps.")] = 128,
    optimizer: Annotated[
        str,
        typer.Option(help="A learned optimizer (shipped name or weights file) or a baseline (see `l2o optimizers`)."),
    ] = "lstm-style",
    rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of a baseline; black is 0 and white is 1. Default: 0.02, usual for adam."),
    ] = None,
    content_weight: Annotated[float, typer.Option(help="How much the content's features count.")] = 10.0,
    style_weight: Annotated[float, typer.Option(help="How much the style's textures count.")] = 10.0,
    variation_weight: Annotated[float, typer.Option(help="How much smoothness counts.")] = 10.0,
    start: Annotated[str, typer.Option(help="Where to start: content or noise.")] = "content",
    features: Annotated[
        str, typer.Option(help="Network that sees: vgg16 (needs its weights), or random, which needs nothing.")
    ] = "vgg16",
    seed: Seed = 0,
) -> None:
    """A step takes about 50 ms of one CPU core at 64 x 64 pixels with vgg16; the time grows with the number of pixels."""
    if steps < 1:
        raise ValueError(f"--steps must be at least 1, got {steps}.")
    for option, value in (("--size", size), ("--style-size", style_size)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1, got {value}.")
    output = output or Path(f"{content.stem}-{style.stem}.png")
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output is written as PNG: give it a name that ends in .png, got {output}.")
    if output.exists() and any(path.exists() and output.samefile(path) for path in (content, style)):
        raise ValueError(f"--output would replace a picture that is read: {output}. Give it another name.")
    rule = _optimizer(optimizer, rate, steps)
    least = neural_art.least_size(features)
    photo = pictures.read(content, size or LARGEST)
    longest = size or min(LARGEST, max(photo.size))
    painting = pictures.read(style, style_size or longest)
    arrays = [
        _resized("--content", content, photo, longest, least, "--size"),
        _resized("--style", style, painting, style_size or longest, least, "--style-size"),
    ]
    weights = {"content_weight": content_weight, "style_weight": style_weight, "variation_weight": variation_weight}
    try:
        task = neural_art.between(*arrays, features=features, start=start, **weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}\nOr pass --features random: a small net with random weights that needs no file and paints coarser."
        ) from error
    check_writable(output.absolute().parent)
    height, width = task.content.shape[:2]
    console.print(f"{content} in the style of {style}, {width} x {height} pixels", markup=False, soft_wrap=True)

    best, found, losses = _optimize(task, rule, jax.random.key(seed), steps)
    if not math.isfinite(losses[-1]):
        advice = f"Lower --rate (it was {rate or RATE:g})." if optimizer in l2o.baselines.BASELINES else "Try adam."
        broke = f"{optimizer} diverged: the loss was {losses[-1]} at step {len(losses) - 1} of {steps}."
        if found == 0:
            raise ValueError(f"{broke} No step was better than the start, so nothing is written. {advice}")
        console.print(f"{broke} Written is its best image, of step {found}. {advice}", style="yellow", markup=False)
    write_whole(output, _png(task.image(best)))
    terms = ", ".join(f"{name} {float(value):.3g}" for name, value in _metrics(task, best).items())
    console.print(f"Loss {losses[0]:.4g} -> {losses[found]:.4g} after {found} steps ({terms})", markup=False)
    console.print(f"Picture: {output}", markup=False, soft_wrap=True)


def _optimizer(name, rate, steps):
    comparison.check_name(name)
    if name not in l2o.baselines.BASELINES:
        if rate is not None:
            raise ValueError(
                f"--rate is for baselines ({', '.join(l2o.baselines.BASELINES)}), by --optimizer; {name} has none."
            )
        return l2o.load(name, horizon=steps, beyond="fallback")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"--rate must be positive, got {rate:g}.")
    return l2o.baselines.get(name).make(rate or RATE)


def _optimize(task, rule, key, steps):
    """The params of the least loss, the step they are of, and the losses of steps 0, ..., `steps`; stops where one is NaN."""
    state = l2o.start(task, rule, jax.random.fold_in(key, 0))
    best, found, losses = state.params, 0, []
    bar = Progress(
        TextColumn("painting"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
    )
    with bar:
        shown = bar.add_task("painting", total=steps, status="compiling")
        for step in range(steps + 1):  # a step's loss is that of where it starts
            following, loss = _step(task, rule, state, key)
            losses.append(float(loss[0]))
            if not math.isfinite(losses[-1]):
                break
            if losses[-1] < losses[found]:
                best, found = state.params, step
            bar.update(shown, completed=step, status=f"loss {losses[-1]:.4g}")
            state = following
    return best, found, losses


@eqx.filter_jit
def _step(task, rule, state, key):
    return l2o.unroll(task, rule, state, key, length=1)


@eqx.filter_jit
def _metrics(task, params):
    return task.metrics(params, None)


def _resized(
    option: str, path: Path, picture: Image.Image, longest: int, least: int, how: str
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with its longest side near `longest`, both sides multiples of `least`."""
    scale = longest / max(picture.size)
    if min(picture.size) * scale < least:
        width, height = (round(side * scale) for side in picture.size)
        raise ValueError(
            f"{option} {path} would be {width} x {height} pixels, and the network needs at least {least} a side. "
            f"Choose a larger {how}."
        )
    sides = [least * max(1, round(side * scale / least)) for side in picture.size]
    return np.asarray(picture.resize((sides[0], sides[1]), Image.Resampling.LANCZOS))


def _png(image) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.round(255 * np.asarray(image)).astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()
