"""The figure of `style.py`: one picture on its way under every optimizer."""

import itertools

import _publish
import equinox as eqx
import matplotlib
import numpy as np

import l2o
from l2o.evaluation import records
from l2o.tasks import style

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARKS = (0, 16, 32, 64, 128)  # steps after which pictures are shown


def pictures(learned, arguments, key):
    """Munch's Scream in the style of van Gogh's Starry Night, both in the public domain; the test photographs are not."""
    if arguments.quick:
        task = style.between(style._synthetic(key, 16), style._synthetic_style(16), features="random")
        painting = style._synthetic_style(16)
    else:
        photo, painting = (l2o.data.load_style(name, 64) for name in ("scream", "starry_night"))
        task = style.between(photo, painting)
    found = records.load(arguments.folder / "style_64").records["style_64"]
    rows = {}
    for name, record in found.items():
        if record.learned:
            optimizer = l2o.load(learned)
        else:
            optimizer = l2o.baselines.get(name).make(record.tuned and record.tuned.value.rate)
        state, rows[name] = l2o.start(task, optimizer, key), []
        for length in (0, *(after - before for before, after in itertools.pairwise(MARKS))):
            if length:
                state, _ = _unroll(task, optimizer, state, key, length)
            rows[name].append((np.asarray(task.image(state.params)), float(_loss(task, state.params))))
    figure, axes = plt.subplots(
        len(rows),
        2 + len(MARKS),
        figsize=(1.35 * (2 + len(MARKS)), 1.5 * len(rows)),
        layout="constrained",
        squeeze=False,
    )
    for line, (name, found) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=8)
        shown = [(task.content, "content"), (painting, "style")]
        shown += [(x, f"step {n}: {loss:.3g}") for n, (x, loss) in zip(MARKS, found, strict=True)]
        for axis, (image, title) in zip(line, shown, strict=True):
            axis.imshow(image)
            axis.set_title(title, fontsize=7)
            axis.set(xticks=[], yticks=[])
    folder = arguments.folder if arguments.quick else _publish.RESULTS
    figure.savefig(folder / "style-pictures.png", dpi=110)
    plt.close(figure)
    print(f"Pictures: {folder / 'style-pictures.png'}")


@eqx.filter_jit
def _unroll(task, optimizer, state, key, length):
    return l2o.unroll(task, optimizer, state, key, length=length)


@eqx.filter_jit
def _loss(task, params):
    return task.loss(params, None)
