"""What docs/results.md says beside the tables: the paper's own numbers, and a text for each experiment."""

from typing import NamedTuple


class Section(NamedTuple):
    """An experiment of the paper."""

    title: str
    name: str  # of its tables
    command: str
    text: str
    figures: tuple[str, ...]
    brief: bool = False  # ratios alone, and none of them among those at a glance


class Panel(NamedTuple):
    """A plot of the paper: its final losses, read off (± 4 %), and who is ahead where it prints no figures."""

    title: str
    losses: dict[str, float] = {}  # noqa: RUF012, a default that nobody changes
    says: str = ""


# Andrychowicz et al. 2016, figures 4 to 9.
PAPER = {
    ("quadratic", 100): Panel(
        "quadratics, step 100", dict(learned=0.039, adam=0.051, rmsprop=0.059, nag=0.081, sgd=0.21)
    ),
    ("mnist", 100): Panel("MNIST, step 100", dict(learned=0.245, adam=0.36, rmsprop=0.355, nag=0.32, sgd=0.46)),
    ("mnist", 200): Panel(
        "MNIST, step 200, tuned for 100", dict(learned=0.21, adam=0.30, rmsprop=0.29, nag=0.26, sgd=0.325)
    ),
    ("mnist_tuned_for_twice", 200): Panel("MNIST, step 200, tuned for 200"),
    ("mnist_40_units", 100): Panel("MNIST, 40 units", dict(learned=0.19, adam=0.31, rmsprop=0.32, nag=0.29, sgd=0.44)),
    ("mnist_2_layers", 100): Panel(
        "MNIST, two layers, from N(0, 0.01²)", dict(learned=0.325, adam=0.70, rmsprop=0.73, nag=0.75, sgd=1.8)
    ),
    ("mnist_2_layers_fan_in", 100): Panel(
        "MNIST, two layers, fan-in scaled", dict(learned=0.325, adam=0.70, rmsprop=0.73, nag=0.75, sgd=1.8)
    ),
    ("mnist_relu", 100): Panel("MNIST, ReLU", dict(learned=2.6, adam=0.37, rmsprop=0.40, nag=0.36, sgd=0.45)),
    ("cifar10", 1000): Panel("CIFAR-10, step 1,000", says="LSTM ahead"),
    ("cifar5", 1000): Panel("CIFAR-5, step 1,000", says="LSTM and LSTM-sub ahead"),
    ("cifar2", 1000): Panel("CIFAR-2, step 1,000", says="LSTM and LSTM-sub ahead"),
    ("style_64", 128): Panel("neural art, 64 px, step 128", says="LSTM ahead"),
    ("strong_64", 128): Panel("neural art, 64 px, style × 10, step 128"),
    ("style_128", 128): Panel("neural art, 128 px, another style, step 128", says="LSTM ahead"),
}

# What a rule's loss is divided by, in the tables of ratios (`_publish`), and what the first table calls it.
AGAINST = {
    "paper": "to the best of the four at a constant rate",
    "baselines": "to the best with schedules and rates by group",
    "teacher": "to its teacher",
}
# Where ratios against the last two are, by panel; a panel that is tuned for 100 steps and run on has none of its own.
MEASURED_IN = {
    panel: ("mnist-schedules", "mnist") if panel.startswith("mnist") else (f"{panel}-scheduled", f"{panel}-teacher")
    for panel, _ in PAPER
} | {"quadratic": ("quadratics",)}
# Those of `search_teacher.py`, as they are called here.
NETS = {
    "base": "784-20-10",
    "{'hidden': (20, 20)}": "two layers, N(0, 0.01²)",
    "{'hidden': (20, 20), 'init_std': None}": "two layers, fan-in",
    "{'activation': 'relu'}": "ReLU",
}
SCHEDULED_AS = {("mnist", 200): "mnist_tuned_for_twice"}

INTRODUCTION = """# Results

The experiments of Andrychowicz et al. 2016, run by the scripts in `experiments/`, beside the paper's figures, which were read
off its plots (± 4 %; `--` where it prints none). Written by `experiments/make_results.py` from the tables in
`experiments/results`.

Every baseline (SGD, NAG, RMSprop, Adam, with optax's defaults and, as in the paper, a constant rate) is tuned for each problem
on other random keys than those reported; all optimizers see the same tasks, starts and minibatches. *Ratio*: mean final loss
over that of what it stands beside, on the same tasks, with its 95 % interval. Below 1 the learned optimizer wins; it is a tie
where the interval contains 1. What a step and meta-training cost (on one core, all measured side by side; more on the cards:
`l2o pretrained NAME`) stands below each table.

In the first table each stands beside three. *The best of the four at a constant rate* is the paper's comparison. It says little
about what is learned: the four know neither how late it is nor which layer they move. *The best with schedules and rates by
group*: the four with cosine decay to the horizon, with and without a warm-up, and Adam and NAG with a rate for each group of
parameters as well, by as many trials as the four (`experiments/_baselines.py`). *Its teacher*: the hand-designed rule, momentum
over a power of the mean square with 9 to 34 constants, that the LSTM learned to copy before anything else; for
`lstm-quadratic`, which copied nothing, a rule of the same kind that was searched for on its quadratics. A teacher costs what
Adam costs, a tenth of an LSTM's step and less; where an LSTM does not win over it, the rule is the better choice and the LSTM
adds nothing. *One rate*: rates by group not measured there; `--`: not measured.
"""

SECTIONS = [
    Section(
        "Quadratics",
        "quadratics",
        "python experiments/quadratics.py",
        """‖Wθ − y‖² in ten dimensions, W and y from N(0, 1): 1,024 fresh tasks. The three architectures of the paper:
`lstm-quadratic`, shipped; an LSTM with global averaging cells; NTM-BFGS, whose memory starts at the identity and is read with
the gradient, steps and gradient differences among its inputs. L-BFGS (which also sees losses, in a line search) and conjugate
gradients (which see products with the Hessian) are lines to look at. *Searched momentum* is what stands in a teacher's place:
annealed momentum over a power of the mean square, nine constants found by `experiments/search_teacher.py quadratic` in 1,600
trials on other tasks, at Adam's price. Most of the LSTM's lead over a constant rate is this rule's too: it is at 0.539 of
Adam, and the LSTM at 0.934 (0.905–0.964) of it. Adam with a warm-up and cosine decay, tuned by as many trials as the four, is
at 0.236, of which the LSTM is at 0.702; ten times the trials, its momentum tuned too, find no better. Schedules end at step
100; so do those rules at 200.

The reviewers doubted that a memory can learn anything like L-BFGS. From gradients alone it is ahead of L-BFGS for twenty
steps, and then is not: [quadratics-steps.csv](../experiments/results/quadratics-steps.csv) has the losses at steps 10,
20, 50, 100 and 200, with the baselines tuned for each. At step 100 its median is 8e-12, but one task in eight is left
unsolved, which is its mean. Its runs are chaotic: another machine had 0.209 and one divergence in 1,024 where this one has
0.196 and none. The limits on its steps were chosen by hand.""",
        ("quadratics-quadratic.png",),
    ),
    Section(
        "MNIST",
        "mnist",
        "python experiments/mnist.py --stage panels",
        """`lstm-mnist`, one LSTM for all parameters, and `lstm-mnist-pair`, one for the hidden layers and one for the output
layer, are each meta-trained on the base net alone, for 200 steps (the paper's for 100), and run on the others unchanged.
`lstm-mnist-mixture`, also of two, is trained on all these nets but that of 40 units, its only transfer here. Means of ten steps.

The baselines have one rate for all parameters. With a rate for each of the two kinds, tuned on a grid of 5 × 5, the best of
them on the base net is NAG at 0.329 / 0.255 at step 100 / 200 (40 seeds; with one rate 0.337 / 0.269): `lstm-mnist-pair`'s
lead is not that it has two. What schedules add to that, and the teachers themselves, are in the section on schedules below.

On ReLU, where the paper's optimizer diverges, one LSTM is behind Adam and the other two ahead of it. From N(0, 0.01²) two
hidden layers start on a plateau. One LSTM leaves it late; so does the pair, whose output layer grows before there are features
and whose hidden steps, right for the base net, are too small. The mixture imitates a rule, found by evolution on these nets,
that opens with large hidden and tiny output steps, and is at 0.44 of Adam; the paper's, from a start that it does not give,
was at 0.46. The merit is the rule's: it ends at 0.43 where its imitation ends at 0.58. With a rate for each kind, and none for
each step, the best baseline is Adam with β₁ = 0.5 at 0.952 (40 seeds, tuned on 6 others).""",
        ("mnist-mnist.png", "mnist-mnist-2-layers.png", "mnist-mnist-relu.png"),
    ),
    Section(
        "MNIST: layers and units",
        "mnist-grid",
        "python experiments/mnist.py --stage grid",
        """The same optimizers on nets of 1 to 3 hidden layers of 5 to 80 units, from both starts, baselines
tuned for each net, 10 seeds. `lstm-mnist-mixture`, which has seen one and two layers of 20, is ahead on 26 of the 30 and level
on 4; `lstm-mnist-pair`, ahead wherever there is one layer, loses on wide nets of two layers from N(0, 0.01²) and of three scaled
by the fan-in.""",
        ("mnist-grid.png",),
        brief=True,
    ),
    Section(
        "MNIST: baselines with schedules",
        "mnist-schedules",
        "python experiments/mnist.py --stage schedules",
        """The same panels and seeds, each baseline offered cosine decay to the horizon, with and without a warm-up, beside a
constant rate: 33 settings instead of 11. It helps most where `lstm-mnist-mixture` leads most and least: on the plateau of two
layers from N(0, 0.01²), where Adam goes from 1.32 to 1.19, and on ReLU, where RMSprop goes from 0.361 to 0.299 and ties with the
mixture and beats the pair. On the base net it changes nothing at step 100, and NAG from 0.273 to 0.262 at step 200.

*Scheduled*: Adam and NAG with a schedule and a rate for the hidden and one for the output layers, 33 settings drawn at random
from three decades for each rate ([what was found](../experiments/results/mnist-schedules-by-group.csv)). On the plateau that
is what Adam lacked: 0.818, and the mixture is at 0.71 of it where it is at 0.44 of a constant rate. On the base net NAG gains
3 %; on ReLU Adam is at 0.293, level with the mixture and ahead of the pair.

*Teachers*: what the LSTMs copied first. On the base net and with 40 units the pair and `lstm-mnist`, meta-trained further, are
5 to 11 % ahead of theirs; the mixture, which only copied, is level and 2 % ahead. Off the plateau it is 35 % behind its
teacher, which is at 0.430: imitation lost a third of what the search had found. On ReLU, which neither `lstm-mnist` nor its
teacher had seen, the teacher ends at 1.31. Where the LSTM was not run again beside its teacher, on the same seeds, the
interval is that of independent runs (two layers, ReLU), and wider than need be; where nothing stands, it is not measured.""",
        (),
        brief=True,
    ),
    Section(
        "CIFAR-10",
        "cifar10",
        "python experiments/cifar.py --panel cifar10",
        """16-16-16 channels of 5 × 5, 32 dense units, ReLU, batch norm, minibatch 128, 1,000 steps; means of the last hundred.
*Two LSTMs*, `lstm-cifar`: one for the convolutional and one for the dense parameters. They were not trained by
back-propagation through the net as the paper's, which takes a GPU, but to imitate two annealed momentum rules, found by a
search of 600 settings, on gradients recorded on this net. Their lead is the rules' lead over rules whose only tuned constant
is a rate, and shows that a learned optimizer can hold it; on fresh seeds the rules themselves, and baselines with a schedule
and a rate for each kind of parameter, are not measured (`--stage beside` does). Annealing alone does not explain it: NAG with
cosine decay, tuned alike (`--schedule cosine`), is at 0.970 where a constant rate has 0.967, and the two LSTMs at 0.896
(0.871–0.913) of it ([cifar10-cosine.csv](../experiments/results/cifar10-cosine.csv)). *One LSTM* for all parameters imitates
the best single rule of the three tried; that it is behind the two, on 19 of the 20 seeds, is what the paper reports.""",
        ("cifar10-cifar10.png",),
    ),
    Section(
        "CIFAR-5",
        "cifar5",
        "python experiments/cifar.py --panel cifar5",
        """The same net on the images of the first five labels alone. *Two LSTMs* is `lstm-cifar`, unchanged. *LSTM-sub* has seen
gradients of the other five labels only; the rules that it imitates were chosen on all ten.""",
        ("cifar5-cifar5.png",),
    ),
    Section(
        "CIFAR-2",
        "cifar2",
        "python experiments/cifar.py --panel cifar2",
        """The same net on the images of the first two labels, 10,000, which it learns by heart: the ratio is one of small
remainders of the training loss. *LSTM-sub* has seen the other eight labels.""",
        ("cifar2-cifar2.png",),
    ),
    Section(
        "Neural art",
        "style_64",
        "python experiments/style.py --panel style_64",
        """The pixels of the 100 test pictures, 64 × 64, each once, in the style of Starry Night, 128 steps from the content
image. `lstm-style` imitated an annealed momentum rule, then learned by back-propagation through 128 steps on windows of 32 ×
32 of the training pictures; its first gradient is made as large as in its training (`l2o.Rescaled`). The paper gives neither
the weights of the three terms nor its starting image, so losses do not compare with its plot. With ours there is little to be
had at step 128: on four validation pictures annealed rules with four to eight times as many steps, from the content, from
noise or from the painting itself, with larger steps, with noise added, and on from where `lstm-style` ends, all end between
0.97 and 0.98 of Adam's loss (LOG.md). L-BFGS, what style transfer people use, is ahead of `lstm-style` by 0.15 % (0.06 to
0.24), and its line search makes a step take twice as long. Optimizers differ more in how soon they get there
([style.md](style.md)), and with a heavier style (below). The rule that it imitated was run on the first 8 of the pictures:
level with Adam at step 128 (4.245 both), and `lstm-style` at 0.989 (0.982–0.993) of it
([style_64-teacher.csv](../experiments/results/style_64-teacher.csv)), so what lead there is is meta-training's. Adam and NAG
with schedules are not measured (`--stage beside` does). SGD and NAG, tuned on four draws of the pictures, diverge on some.""",
        ("style_64-style-64.png", "style-pictures.png"),
    ),
    Section(
        "Neural art, the style weighing more",
        "strong_64",
        "python experiments/style.py --panel strong_64 --num-tasks 40 --trials 11 --leave-out lbfgs",
        """Ours: as in the section before, the style with a weight of 100 instead of 10, which leaves more to be had: on four
validation pictures 512 steps of an annealed rule end at 0.88 of Adam's loss after 128. `lstm-style` is unchanged, and has seen
the weight 10 alone. The first 40 test pictures; the others tuned on four draws of them.""",
        ("strong_64-strong-64.png",),
    ),
    Section(
        "Neural art, larger and in another style",
        "style_128",
        "python experiments/style.py --panel style_128 --tune-tasks 2 --leave-out lbfgs",
        """The same weights, unchanged, on the 100 test pictures at 128 × 128 in the style of The Scream: neither that style nor
that size was in its training. The others are tuned on two draws of the pictures; L-BFGS is not measured. NAG's and SGD's rates
are the largest of the grid: on the two draws twice NAG's is worse (4.76 for 4.24).""",
        ("style_128-style-128.png",),
    ),
]

TEACHERS = """## The teachers, found again

`python experiments/search_teacher.py NAME`

The rules that stand in the train scripts were found by searches driven by hand (LOG.md). The script finds such rules from a
seed; below are its losses on fresh seeds, on the same stand-ins (images blurred over 2 × 2 pixels, windows, small nets),
beside those of the rule in the train script, and their ratio with its 95 % interval. What can be found again is the loss; the
constants differ, for the optimum is flat ([teacher-*.json](../experiments/results) hold them)."""

CLOSING = """## Behaviour

What the shipped rules propose against the gradient, the paths of two coordinates beside SGD's and Adam's (the paper's appendix),
and what the rules amount to: [explain.md](explain.md); figures and fits are in `experiments/results/behaviour*`.
"""
