r"""Finds the constants of the hand-designed rules that shipped optimizers imitate: python experiments/search_teacher.py pair

The rules are momentum over a power of the mean square (`_teacher.momentum`), with rates through 13 knots or annealed, one for
each group of params. Their constants, logarithms of rates and the like, are found by CMA-ES (Hansen & Ostermeier 2001,
populations of 16, each judged on fresh seeds of its own) and, with `--gradient`, by gradient descent through whole runs from
where the evolution ended (Adam, each net's gradient clipped to 1). What is minimised is the weighted mean, over nets and steps,
of the logarithm of the mean loss: `PROBLEMS`. All candidates and seeds of a net are one program.

    python experiments/search_teacher.py lstm-mnist          # 44 populations: two minutes of one core
    python experiments/search_teacher.py pair                # 66 populations: three minutes
    python experiments/search_teacher.py pair --gradient     # and on from there by 250 steps of gradient descent: two
    python experiments/search_teacher.py mixture             # 240 populations, from what was found for the pair: 25
    python experiments/search_teacher.py quadratic           # what a few constants can do where nothing was imitated
    python experiments/search_teacher.py cifar               # on the small net of 8 x 8 pixels: an hour and more
    python experiments/search_teacher.py style               # on windows of 32 x 32 pixels of the training pictures
    python experiments/search_teacher.py pair --quick        # the same in two minutes, on the shipped sample; publishes nothing

Writes the constants to results/teacher-NAME.json, with the losses on fresh seeds of the rule found, of the start and of the rule
that stands in the train script. Stopped, the same command goes on where it was (--folder). The scripts' rules are older than
this one, and were found by hand-driven searches of the same kind (LOG.md); this is the search that anyone can run again. What is
to agree is the loss, not the constants: the optimum is flat.
"""

import argparse
import csv
import io
import json
from pathlib import Path

import cmaes
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _publish import RESULTS
from _teacher_problems import KNOTS, PROBLEMS, Constants, Net, by_knots
from jax.flatten_util import ravel_pytree

import l2o
from l2o.core.unroll import begin
from l2o.evaluation import statistics
from l2o.io.files import write_whole

POPULATION = 16
STEP_SIZE = 0.3  # of the evolution, in units of a factor of e
WORST = 20.0  # what a run that diverged counts as
POSITIVE = ("rates", "rate", "warmup", "num_steps", "exponent", "eps")  # moved in the logarithm
FRACTIONS = ("b1", "b2", "least")  # in the logit


def encode(constants: Constants) -> Constants:
    """Free numbers for the constants, in units in which a step of 1 is a large one."""
    return {group: {n: _free(n, jnp.asarray(x, jnp.float32)) for n, x in c.items()} for group, c in constants.items()}


def decode(free: Constants) -> Constants:
    return {group: {n: _constant(n, x) for n, x in c.items()} for group, c in free.items()}


def _free(name, x):
    if name in FRACTIONS:
        return jnp.log(x / (1 - x))
    return jnp.log(x) if name in POSITIVE else 10 * x  # powers


def _constant(name, x):
    if name in FRACTIONS:
        return jax.nn.sigmoid(x)
    return jnp.exp(x) if name in POSITIVE else x / 10


def losses(rule, net: Net, key, window, **options):
    """The rule's losses [num_steps] on one seed, at the steps that have weights."""
    task, state, batch_key = begin(net.family, rule, key)
    _, curve = l2o.unroll(task, rule, state, batch_key, length=max(net.weights) + 1, **options)
    return jnp.stack([jnp.mean(curve[step - window + 1 : step + 1]) for step in net.weights])


def score(found, net: Net):
    """The weighted sum of logarithms of losses [num_seeds, ..., num_steps], means over seeds."""
    found = jnp.where(jnp.isfinite(found), jnp.minimum(found, WORST), WORST)
    return jnp.log(jnp.mean(found, axis=0)) @ jnp.asarray([*net.weights.values()])


def evolve(problem, nets, start, unravel, key, *, num_populations, seed, folder):
    """The mean of the search distribution after `num_populations`, going on with the scores in `folder`."""
    file = folder / "scores.npz"
    told = np.load(file)["scores"] if file.exists() else np.zeros((0, POPULATION))
    search = cmaes.CMA(mean=np.asarray(start, float), sigma=STEP_SIZE, seed=seed, population_size=POPULATION)
    total = sum(sum(net.weights.values()) for net in nets.values())

    def on_net(net):
        def one(x, key):
            return losses(problem.build(decode(unravel(x))), net, key, problem.window)

        def all_of_them(xs, keys):
            # Candidates innermost: a minibatch is drawn once for all of them.
            return score(jax.lax.map(lambda k: jax.vmap(one, (0, None))(xs, k), keys), net)

        return jax.jit(all_of_them)

    programs = [on_net(net) for net in nets.values()]
    for generation in range(num_populations):
        asked = [search.ask() for _ in range(POPULATION)]
        if generation == len(told):
            xs = jnp.asarray(np.stack(asked), jnp.float32)
            keys = jax.random.split(jax.random.fold_in(key, generation), problem.num_seeds)
            scores = sum(np.asarray(program(xs, keys)) for program in programs) / total
            told = np.concatenate([told, scores[None]])
            save(file, scores=told)
            print(f"population {generation + 1}: mean {scores.mean():.4f}, best {scores.min():.4f}", flush=True)
        search.tell([(x, float(s)) for x, s in zip(asked, told[generation], strict=True)])
    return jnp.asarray(search.mean, jnp.float32)


def descend(problem, nets, start, unravel, key, *, num_steps, rate, folder):
    """Adam on the free numbers, along gradients through whole runs, going on with what is in `folder`."""
    file = folder / "descent.npz"
    rule = optax.adam(rate)

    def gradient(net):
        def mean(x, keys):
            def one(key):
                rule = problem.build(decode(unravel(x)))
                return losses(rule, net, key, problem.window, meta_gradient=l2o.SecondOrder())

            return score(jax.lax.map(one, keys), net)

        return jax.jit(jax.value_and_grad(mean))

    programs = [gradient(net) for net in nets.values()]
    x, state = start, rule.init(start)
    done = 0
    if file.exists():
        saved = np.load(file)
        done, x = int(saved["done"]), jnp.asarray(saved["x"])
        flat_state, as_state = ravel_pytree(state)
        state = as_state(jnp.asarray(saved["state"], flat_state.dtype))
    for step in range(done, num_steps):
        keys = jax.random.split(jax.random.fold_in(key, step), 2)
        values, gradients = zip(*(program(x, keys) for program in programs), strict=True)
        total = sum(g / jnp.maximum(1.0, jnp.linalg.norm(g)) for g in gradients)
        updates, state = rule.update(total, state)
        x = x + updates
        if (step + 1) % 10 == 0:
            save(file, done=step + 1, x=x, state=ravel_pytree(state)[0])
            print(f"step {step + 1}: {sum(map(float, values)):.4f}", flush=True)
    return x


def save(path, **arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    write_whole(path, file.getvalue())


def report(problem, nets, rules, key):
    """Rows of a table: each rule's losses on fresh seeds, and its ratio to the one in the train script, where there is one."""
    for name, net in nets.items():
        keys = jax.random.split(key, problem.num_fresh)
        of = {}
        for rule_name, rule in rules.items():
            program = jax.jit(lambda keys, r=rule: jax.lax.map(lambda k: losses(r, net, k, problem.window), keys))  # noqa: B023
            of[rule_name] = np.asarray(program(keys))
        for i, step in enumerate(net.weights):
            for rule_name, found in of.items():
                row = {"net": name, "step": step, "rule": rule_name, "loss": float(found[:, i].mean())}
                if "used" in of and rule_name != "used":
                    row |= dict(
                        zip(
                            ("ratio_to_used", "low", "high"),
                            map(float, statistics.ratio_interval(found[:, i], of["used"][:, i])),
                            strict=True,
                        )
                    )
                yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--gradient", action="store_true", help="go on by gradient descent through the runs")
    parser.add_argument("--populations", type=int)
    parser.add_argument("--num-steps", type=int, default=250, help="of gradient descent")
    parser.add_argument("--rate", type=float, default=0.01, help="of gradient descent")
    parser.add_argument(
        "--from", dest="start", type=Path, help="a JSON that this script wrote; default: the problem's start"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/teachers"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    l2o.use_all_cores(1)
    problem = PROBLEMS[arguments.problem]
    num_populations, num_steps = arguments.populations or problem.num_populations, arguments.num_steps
    if arguments.quick:
        num_populations, num_steps = 2, 2
        problem = problem._replace(num_seeds=1, num_fresh=3)
    folder = arguments.folder / ("quick" if arguments.quick else "") / f"{arguments.problem}-{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    nets = problem.nets(arguments.quick)
    start = json.loads(arguments.start.read_text())["constants"] if arguments.start else problem.start
    x, unravel = ravel_pytree(encode(jax.tree.map(np.asarray, start, is_leaf=lambda v: isinstance(v, list))))
    search_key, descent_key, report_key = jax.random.split(jax.random.key(arguments.seed), 3)

    rules = {"start": problem.build(decode(unravel(x)))}
    x = evolve(
        problem, nets, x, unravel, search_key, num_populations=num_populations, seed=arguments.seed, folder=folder
    )
    rules["evolution"] = problem.build(decode(unravel(x)))
    if arguments.gradient:
        x = descend(problem, nets, x, unravel, descent_key, num_steps=num_steps, rate=arguments.rate, folder=folder)
        rules["evolution and gradient descent"] = problem.build(decode(unravel(x)))
    if problem.used:
        rules["used"] = problem.used()
    constants = jax.tree.map(lambda v: np.asarray(v).tolist(), decode(unravel(x)))
    print(json.dumps(constants, indent=1))
    rows = list(report(problem, nets, rules, report_key))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    print(text.getvalue())
    if arguments.quick:
        return
    told = {
        "command": f"python experiments/search_teacher.py {arguments.problem}{' --gradient' if arguments.gradient else ''}",
        "seed": arguments.seed,
        "start": str(arguments.start.name) if arguments.start else "the problem's",
        "populations": num_populations,
        "gradient_steps": num_steps if arguments.gradient else 0,
        "knots": KNOTS if problem.build is by_knots else None,
        "constants": constants,
        "num_fresh": problem.num_fresh,
        "losses": rows,
    }
    path = RESULTS / f"teacher-{arguments.problem}.json"
    write_whole(path, (json.dumps(told, indent=1) + "\n").encode())
    print(path)


if __name__ == "__main__":
    main()
