"""What docs/results says beside the tables: the paper's own numbers, and a text for each experiment."""

from typing import NamedTuple


class Section(NamedTuple):
    """An experiment of the paper."""

    title: str
    name: str  # of its tables
    command: str
    text: str
    figures: tuple[str, ...]
    brief: bool = False  # ratios alone, and none of them among those at a glance
    page: str = ""  # of `PAGES`


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

The experiments of Andrychowicz et al. 2016, run again by the scripts in `experiments/`. The paper's figures beside ours were
read off its plots (± 4 %; `--` where it prints none). `experiments/make_results.py` writes these pages from the tables in
`experiments/results`.

## How to read the tables

On MNIST, `lstm-mnist-pair` ends at **0.694** (0.681–0.707) of the best baseline's loss after 100 steps. So its mean final
loss is 69.4 % of that of the best baseline, on the same tasks. The 95 % interval is in brackets. Below 1 the learned
optimizer wins. It is a tie where the interval contains 1.

Every baseline (SGD, NAG, RMSprop, Adam, with optax's defaults) is tuned for each problem, on other random keys than those
reported. All optimizers see the same tasks, starts and minibatches.

In the table each rule stands beside three others:

- **The best of the four at a constant rate.** This is the paper's comparison. It says little about what is learned: the four
  do not know how late it is, nor which layer they move.
- **The best with schedules and rates by group.** The four with cosine decay to the horizon, with and without a warm-up. Adam
  and NAG may also have a rate for each group of parameters, by as many trials as the four (`experiments/_baselines.py`). *One
  rate*: rates by group were not measured there.
- **Its teacher.** The hand-designed rule that the LSTM learned to copy before anything else: momentum over a power of the
  mean square, with 9 to 34 constants. `lstm-quadratic` copied nothing; beside it stands a rule of the same kind that was
  searched for on its quadratics. A teacher costs what Adam costs, a tenth of an LSTM's step and less. Where an LSTM does not
  win over it, the teacher is the better choice, and the LSTM adds nothing.

`--` means: not measured.
"""

NOTES = """
Part of each lead is only a schedule's. On two MNIST layers from N(0, 0.01²) 0.437 becomes 0.708, and on ReLU 0.903 becomes a
tie.

## The experiments
"""

SECTIONS = [
    Section(
        "Quadratics",
        "quadratics",
        "python experiments/quadratics.py",
        """The problem is ‖Wθ − y‖² in ten dimensions, with W and y from N(0, 1): 1,024 fresh tasks.

Three learned architectures of the paper are here: `lstm-quadratic`, which ships with l2o; an LSTM with global averaging
cells; and NTM-BFGS. The memory of NTM-BFGS starts at the identity. It is read with the gradient, and steps and gradient
differences are among its inputs.

L-BFGS and conjugate gradients are lines to look at: L-BFGS also sees losses, in a line search, and conjugate gradients see
products with the Hessian.

*Searched momentum* stands in a teacher's place: annealed momentum over a power of the mean square. Its nine constants were
found by `experiments/search_teacher.py quadratic` in 1,600 trials on other tasks. It runs at Adam's price. Most of the LSTM's
lead over a constant rate is this rule's too. The rule is at 0.539 of Adam, and the LSTM at 0.934 (0.905–0.964) of the rule.

Adam with a warm-up and cosine decay, tuned by as many trials as the four, is at 0.236. The LSTM is at 0.702 of that. Ten
times the trials, with the momentum tuned too, find nothing better. Schedules end at step 100; so do those rules at 200.

**Can a memory learn something like L-BFGS?** The paper's reviewers doubted it. From gradients alone NTM-BFGS is ahead of
L-BFGS for twenty steps, and then is not. [quadratics-steps.csv](../../experiments/results/quadratics-steps.csv) has the
losses at steps 10, 20, 50, 100 and 200, with the baselines tuned for each. At step 100 its median is 8e-12, but it leaves one
task in eight unsolved, and that is its mean. Its runs are chaotic: another machine had 0.209 and one divergence in 1,024
where this one has 0.196 and none. The limits on its steps were chosen by hand.""",
        ("quadratics-quadratic.png",),
        page="quadratics",
    ),
    Section(
        "MNIST",
        "mnist",
        "python experiments/mnist.py --stage panels",
        """Three shipped rules run here:

- `lstm-mnist` is one LSTM for all parameters. `lstm-mnist-pair` has one LSTM for the hidden layers and one for the output
  layer. Both were meta-trained on the base net alone, 784-20-10 with a sigmoid, for 200 steps (the paper's for 100). They run
  on the other nets unchanged.
- `lstm-mnist-mixture` has two LSTMs as well. It was trained on all these nets but that of 40 units, which is its only
  transfer here.

Losses are means of ten steps.

**Is the lead of the pair that it has two rates?** No. The baselines have one rate for all parameters. With a rate for each of
the two kinds, tuned on a grid of 5 × 5, the best of them on the base net is NAG at 0.329 / 0.255 at step 100 / 200 (40 seeds;
with one rate 0.337 / 0.269). The section on [baselines with schedules](#mnist-baselines-with-schedules) says what schedules
add, and how the teachers do.

**ReLU.** The paper's optimizer diverges here. One LSTM is behind Adam, the other two rules are ahead of it.

**Two hidden layers from N(0, 0.01²).** They start on a plateau. One LSTM leaves it late. So does the pair: its output layer
grows before there are features, and its hidden steps, right for the base net, are too small. The mixture opens with large
hidden and tiny output steps, and is at 0.44 of Adam. The paper's, from a start that it does not give, was at 0.46. The merit
is that of the rule that the mixture imitates, which evolution found on these nets: the rule ends at 0.43 where its imitation
ends at 0.58. With a rate for each kind, but none for each step, the best baseline is Adam with β₁ = 0.5 at 0.952 (40 seeds,
tuned on 6 others).""",
        ("mnist-mnist.png", "mnist-mnist-2-layers.png", "mnist-mnist-relu.png"),
        page="mnist",
    ),
    Section(
        "MNIST: layers and units",
        "mnist-grid",
        "python experiments/mnist.py --stage grid",
        """The same optimizers on nets of 1 to 3 hidden layers of 5 to 80 units, from both starts. Baselines are tuned for
each net; 10 seeds.

- `lstm-mnist-mixture` has seen one and two layers of 20. It is ahead on 26 of the 30 nets, and level on 4.
- `lstm-mnist-pair` is ahead wherever there is one layer. It loses on wide nets of two layers from N(0, 0.01²), and on wide
  nets of three layers scaled by the fan-in.""",
        ("mnist-grid.png",),
        brief=True,
        page="mnist",
    ),
    Section(
        "MNIST: baselines with schedules",
        "mnist-schedules",
        "python experiments/mnist.py --stage schedules",
        """The same panels and seeds. Each baseline is offered cosine decay to the horizon, with and without a warm-up, beside a
constant rate: 33 settings instead of 11. It helps most in two places:

- on the plateau of two layers from N(0, 0.01²), where Adam goes from 1.32 to 1.19;
- on ReLU, where RMSprop goes from 0.361 to 0.299. There it ties with the mixture, and beats the pair.

On the base net a schedule changes nothing at step 100. At step 200 NAG goes from 0.273 to 0.262.

*Scheduled*: Adam and NAG with a schedule, a rate for the hidden layers and one for the output layer. 33 settings were drawn
at random from three decades for each rate ([what was found](../../experiments/results/mnist-schedules-by-group.csv)). On the
plateau this is what Adam lacked. It ends at 0.818, and the mixture is at 0.71 of that, where it is at 0.44 of a constant
rate. On the base net NAG gains 3 %. On ReLU Adam is at 0.293: level with the mixture, and ahead of the pair.

*Teachers*: what the LSTMs copied first. On the base net and with 40 units the pair and `lstm-mnist`, which were meta-trained
further, are 5 to 11 % ahead of their teachers. The mixture only copied; it is level, and 2 % ahead. Off the plateau the
mixture is 35 % behind its teacher, which is at 0.430: imitation lost a third of what the search had found. On ReLU, which
neither `lstm-mnist` nor its teacher had seen, the teacher ends at 1.31.

Where the LSTM was not run again beside its teacher on the same seeds (two layers, ReLU), the interval is that of independent
runs, and wider than need be.""",
        (),
        brief=True,
        page="mnist",
    ),
    Section(
        "CIFAR-10",
        "cifar10",
        "python experiments/cifar.py --panel cifar10",
        """The net has 16-16-16 channels of 5 × 5, 32 dense units, ReLU and batch norm. Minibatches of 128, 1,000 steps; losses
are means of the last hundred.

*Two LSTMs* is `lstm-cifar`: one for the convolutional and one for the dense parameters. The paper's were trained by
back-propagation through the net, which takes a GPU. Ours were not. They imitate two annealed momentum rules, found by a
search of 600 settings, on gradients recorded on this net. So their lead is the rules' lead over rules whose only tuned
constant is a rate. It shows that a learned optimizer can hold such a lead. On fresh seeds the rules themselves are not
measured, nor are baselines with a schedule and a rate for each kind of parameter (`--stage beside` does both).

Annealing alone does not explain the lead. NAG with cosine decay, tuned alike (`--schedule cosine`), is at 0.970 where a
constant rate has 0.967. The two LSTMs are at 0.896 (0.871–0.913) of it
([cifar10-cosine.csv](../../experiments/results/cifar10-cosine.csv)).

*One LSTM* for all parameters imitates the best single rule of the three tried. It is behind the two on 19 of the 20 seeds, as
the paper reports.""",
        ("cifar10-cifar10.png",),
        page="cifar",
    ),
    Section(
        "CIFAR-5",
        "cifar5",
        "python experiments/cifar.py --panel cifar5",
        """The same net, on the images of the first five labels alone. *Two LSTMs* is `lstm-cifar`, unchanged. *LSTM-sub* has
seen gradients of the other five labels only. The rules that it imitates were chosen on all ten.""",
        ("cifar5-cifar5.png",),
        page="cifar",
    ),
    Section(
        "CIFAR-2",
        "cifar2",
        "python experiments/cifar.py --panel cifar2",
        """The same net, on the images of the first two labels. It learns these 10,000 by heart, so the ratio is one of small
remainders of the training loss. *LSTM-sub* has seen the other eight labels.""",
        ("cifar2-cifar2.png",),
        page="cifar",
    ),
    Section(
        "Neural art",
        "style_64",
        "python experiments/style.py --panel style_64",
        """The problem is the pixels of a picture, 64 × 64, in the style of Starry Night: 128 steps from the content image. Each
of the 100 test pictures is taken once.

`lstm-style` imitated an annealed momentum rule. Then it learned by back-propagation through 128 steps, on windows of 32 × 32
of the training pictures. Its first gradient is made as large as in its training (`l2o.Rescaled`).

The paper gives neither the weights of the three terms nor its starting image, so losses do not compare with its plot. With
our weights there is little to be had at step 128. On four validation pictures annealed rules took four to eight times as many
steps: from the content, from noise or from the painting itself, with larger steps, with noise added, and on from where
`lstm-style` ends. All end between 0.97 and 0.98 of Adam's loss (LOG.md).

- **L-BFGS**, what style transfer people use, is ahead of `lstm-style` by 0.15 % (0.06 to 0.24). Its line search makes a step
  take twice as long.
- **Sooner**: optimizers differ more in how soon they get there ([neural art](../style.md)), and with a heavier style (below).
- **Its teacher** was run on the first 8 of the pictures. It is level with Adam at step 128 (4.245 both), and `lstm-style` is at
  0.989 (0.982–0.993) of it ([style_64-teacher.csv](../../experiments/results/style_64-teacher.csv)). So what lead there is is
  meta-training's.
- **Not measured**: Adam and NAG with schedules (`--stage beside` does).
- **Diverged**: SGD and NAG, tuned on four draws of the pictures, diverge on some of the others.""",
        ("style_64-style-64.png", "style-pictures.png"),
        page="art",
    ),
    Section(
        "Neural art, the style weighing more",
        "strong_64",
        "python experiments/style.py --panel strong_64 --num-tasks 40 --trials 11 --leave-out lbfgs",
        """This panel is ours. It is the one above, but the style has a weight of 100 instead of 10, which leaves more to be
had: on four validation pictures 512 steps of an annealed rule end at 0.88 of Adam's loss after 128. `lstm-style` is
unchanged, and has seen the weight 10 alone. The first 40 test pictures; the others are tuned on four draws of them.""",
        ("strong_64-strong-64.png",),
        page="art",
    ),
    Section(
        "Neural art, larger and in another style",
        "style_128",
        "python experiments/style.py --panel style_128 --tune-tasks 2 --leave-out lbfgs",
        """The same weights, unchanged, on the 100 test pictures at 128 × 128 in the style of The Scream. Neither that style
nor that size was in its training. The others are tuned on two draws of the pictures; L-BFGS is not measured. The rates of NAG
and SGD are the largest of the grid. On the two draws twice NAG's is worse (4.76 for 4.24).""",
        ("style_128-style-128.png",),
        page="art",
    ),
]

PAGES = {  # the files in docs/results, and their titles
    "quadratics": "Quadratics",
    "mnist": "Perceptrons on MNIST",
    "cifar": "Convolutional nets on CIFAR",
    "art": "Neural art, measured",
    "teachers": "The teachers, found again",
}
BY_HAND = {"momentum": "Rules of a few constants, in steps and in seconds"}  # more of these, written by hand

TEACHERS = """`python experiments/search_teacher.py NAME`

The rules that stand in the train scripts were found by searches driven by hand (LOG.md). This script finds such rules from a
seed.

Below are its losses on fresh seeds, on the same stand-ins (images blurred over 2 × 2 pixels, windows, small nets). Beside them
are those of the rule in the train script, and the ratio of the two with its 95 % interval. What can be found again is the loss.
The constants differ, for the optimum is flat (`experiments/results/teacher-*.json` hold them).
"""

CLOSING = """
## Behaviour

What do the shipped rules propose, for a gradient of a given size? Which paths do two coordinates take, beside SGD's and
Adam's (the paper's appendix)? What does a rule amount to? [The gallery](gallery.md) shows it, and [explain](explain.md) says
how it is found. Figures and fits are in `experiments/results/behaviour*`. """
