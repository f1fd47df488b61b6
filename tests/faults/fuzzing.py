"""Damaged and hostile files through every reader: `python fuzzing.py weights|pictures NUM FOLDER`, in a process of its own.

Run by `test_fuzz_weights.py`. A reader takes a file, or raises a `ValueError` of one line that names it, whatever it holds;
nothing is run, imported, written or fetched, and neither time nor memory runs away.
"""

import io
import json
import resource
import struct
import sys
import time
import warnings
from pathlib import Path

import numpy as np

_EVENTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "socket.getaddrinfo",
)
FIRED = []


def watch(event, arguments):
    if event in _EVENTS or (event == "import" and str(arguments[0]).startswith("canary")):
        FIRED.append((event, str(arguments)[:200]))


def deep(depth, leaf=1):
    for _ in range(depth):
        leaf = [leaf]
    return leaf


HOSTILE = (
    *(None, True, -1, 0, 1, 7, 10**6, 10**18, 10**30, -(10**30), 0.5, -0.5, 1e308, 1e-308, float("nan"), float("inf")),
    *(
        "",
        "x",
        "os:system",
        "canary_module:family",
        "canary_module",
        "../../etc/passwd",
        "/etc/passwd",
        "quadratic",
        "lstm",
    ),
    *("partitioned", "rescaled", "\x1b[2J", "\x00", "\u202e", "a\nb", "%s", "{0}", "a" * 10**5, "NaN", "1e999", "[[[["),
    *([], {}, [1, 2], {"a": 1}, deep(200), list(range(10**4)), {"parts": {}}, {"command": "touch canary"}),
)


def hostile(rng):
    value = HOSTILE[rng.integers(len(HOSTILE))]
    return json.loads('"\\ud800"') if value == "x" and rng.random() < 0.5 else value


def mutated(tree, rng):
    """A copy of JSON with one value replaced, left out, repeated or put under another name, anywhere in it."""
    tree = json.loads(json.dumps(tree))
    places, level = [], [tree]
    while level:
        node = level.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                level.append(node[key])
    node, key = places[rng.integers(len(places))]
    what = rng.integers(5)
    if what == 0:
        del node[key]
    elif what == 1 and isinstance(node, dict):
        node[str(hostile(rng))[:200]] = node.pop(key)
    elif what == 2 and isinstance(node[key], int | float):
        node[key] *= [-1, 0, 2, 1000, 1e30][rng.integers(5)]
    else:
        node[key] = hostile(rng)
    return tree


_TEXTS = ("arguments", "recipe", "versions", "scale", "groups")  # of JSON within JSON


def mutated_weights(content, rng):
    what = rng.random()
    size = int.from_bytes(content[:8], "little")
    if what < 0.25:
        return mutated_bytes(content, rng, 8 + size)
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
    if what < 0.75:
        told = {k: json.loads(v) if k in _TEXTS else v for k, v in header["__metadata__"].items()}
        for _ in range(rng.integers(1, 3)):
            told = mutated(told, rng) if told else told
        header["__metadata__"] = {
            k: v if isinstance(v, str) and k not in _TEXTS else json.dumps(v) for k, v in told.items()
        }
    elif what < 0.9:
        header = mutated(header, rng)
    else:  # numbers that are none
        rest = bytearray(rest)
        at = 4 * int(rng.integers(len(rest) // 4))
        rest[at : at + 4] = struct.pack("<f", [np.nan, np.inf, -np.inf, 1e38][rng.integers(4)])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(rest)


def mutated_bytes(content, rng, head):
    content = bytearray(content)
    what = rng.integers(5)
    if what == 0:
        return bytes(content[: rng.integers(len(content))])
    if what == 1:
        at = rng.integers(len(content))
        content[at:at] = rng.bytes(int(rng.integers(1, 64)))
    elif what == 2:
        at = rng.integers(len(content))
        del content[at : at + int(rng.integers(1, 64))]
    else:
        for _ in range(rng.integers(1, 9)):
            at = rng.integers(head if rng.random() < 0.8 else len(content))
            content[at] = rng.integers(256) if what == 3 else content[at] ^ (1 << int(rng.integers(8)))
    return bytes(content)


def weights_bases(folder):
    import jax
    import jax.numpy as jnp

    import l2o
    from l2o.optimizers import lstm, ntm_bfgs, pretrained, states

    def tiny(key=0, **arguments):
        return lstm.build(jax.random.key(key), num_layers=1, num_units=2, **arguments)

    recipe = {"task": "quadratic", "task_arguments": {"dim": 3, "preset": "code"}, "horizon": 4, "seconds": 1.0}
    recipe = {**recipe, "num_episodes": 3, "num_inner_steps": 12}
    rules = [
        tiny(),
        tiny(num_global=1, preset="raw"),
        l2o.Partitioned({"a": tiny(), "b": l2o.Rescaled(tiny(1), 0.1)}),
        l2o.Rescaled(tiny(), 0.5),
        ntm_bfgs.build(jax.random.key(0), num_layers=1, num_units=2, num_global=1),
    ]
    path = folder / "base.safetensors"
    contents = []
    for rule in rules:
        pretrained.save(path, rule, recipe=recipe)
        contents.append(path.read_bytes())
    contents.append(pretrained._weights.shipped("lstm-quadratic").read_bytes())
    states.save(path, rules[0], rules[0].init(jnp.ones(3)), jnp.ones(3))
    state = path.read_bytes()
    path.unlink()
    return contents, state, rules[0]


def fuzz_weights(num, folder):
    import jax.numpy as jnp
    import torch
    from typer.testing import CliRunner

    import l2o
    import l2o.torch as l2o_torch
    from l2o.cli import _explain, _stylize
    from l2o.cli._app import app
    from l2o.evaluation import contenders
    from l2o.optimizers import pretrained, states

    torch.set_num_threads(1)
    l2o.use_all_cores = lambda cores: None
    warnings.simplefilter("ignore")
    bases, state, rule = weights_bases(folder)
    path = folder / "it.safetensors"
    path.with_suffix(".md").write_text("# It")

    def in_torch():
        return l2o_torch.LearnedOptimizer([torch.nn.Parameter(torch.ones(3))], pretrained.as_dict(rule))

    readers = {
        "load": l2o.load,
        "header": pretrained.header,
        "describe": pretrained.describe,
        "explain": lambda path: _explain.family_of(path, None, None),
        "compare": lambda path: contenders._contender("it", path),
        "stylize": lambda path: _stylize._optimizer(path, None, 10),
        "torch": lambda path: build(l2o_torch.load_weights(path)),
    }

    def build(weights):  # of the first part, if there are several
        part = next(iter(weights["arguments"].get("parts", {})), None)
        try:
            return l2o_torch._build.build(weights, part)
        except ValueError as error:
            if "No PyTorch twin" not in str(error):
                raise

    state_readers = {
        "states.load": lambda path: states.load(path, rule, jnp.ones(3)),
        "load_state": lambda path: l2o_torch.load_state(path, in_torch()),
    }
    for content in bases:
        path.write_bytes(content)
        for reader in readers.values():
            reader(str(path))
    path.write_bytes(state)
    for reader in state_readers.values():
        reader(str(path))

    def one(rng, index):
        of_state = index % 7 == 6
        path.write_bytes(mutated_weights(state if of_state else bases[index % len(bases)], rng))
        outcomes = [outcome(reader, path) for reader in (state_readers if of_state else readers).values()]
        if index % 200 == 0:  # the commands themselves, where they do not go on to compute
            broken = outcomes[3 % len(outcomes)] == "refused"
            for command in ("pretrained", "explain")[: 2 if broken else 1]:
                done = CliRunner().invoke(app, [command, str(path)], catch_exceptions=False)
                assert done.exit_code in (0, 2), done.output
                if done.exit_code:
                    assert len(done.output.splitlines()) == 1, done.output
                    assert done.output.startswith("error: "), done.output
        return outcomes

    return one


def fuzz_pictures(num, folder):
    from PIL import Image

    from l2o.cli import _pictures

    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 40, 3)).astype(np.uint8))
    bases = []
    for image, kind, options in (
        *((picture, kind, {}) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "TGA", "PPM", "JPEG2000")),
        (picture, "JPEG", {"progressive": True}),
        (picture, "TIFF", {"compression": "tiff_lzw"}),
        (picture, "TIFF", {"compression": "jpeg"}),
        (Image.fromarray(np.arange(960).reshape(24, 40).astype(np.uint16)), "PNG", {}),
        (Image.fromarray(np.linspace(0, 1, 960, dtype=np.float32).reshape(24, 40)), "TIFF", {}),
        (picture.convert("RGBA"), "PNG", {}),
        (picture.quantize(), "PNG", {"transparency": 3}),
        (picture.convert("CMYK"), "JPEG", {}),
    ):
        content = io.BytesIO()
        image.save(content, kind, **options)
        bases.append(content.getvalue())
    path = folder / "it.png"
    for content in bases:
        path.write_bytes(content)
        assert _pictures.read(path, 64).mode == "RGB"

    def one(rng, index):
        content = bases[index % len(bases)]
        if rng.random() < 0.4:  # a size, or an offset, in the header
            content, at = bytearray(content), int(rng.integers(4, 64))
            value = int(rng.choice([0, 1, 2**14, 2**15, 60_000, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1]))
            how = [">I", "<I", ">H", "<H"][rng.integers(4)]
            struct.pack_into(how, content, at, value & (0xFFFF if how[1] == "H" else 0xFFFFFFFF))
            content = bytes(content)
        else:
            content = mutated_bytes(content, rng, 64)
        path.write_bytes(content)
        return [outcome(lambda p: _pictures.read(Path(p), 64), path)]

    return one


SLOWEST = [0.0]


def outcome(reader, path):
    started = time.process_time()
    try:
        reader(str(path))
        found = "taken"
    except ValueError as error:
        message = str(error)
        assert path.name in message or "This set of weights" in message, message
        assert len(message.splitlines()) == 1, message
        assert message.isprintable(), message
        found = "refused"
    SLOWEST[0] = max(SLOWEST[0], time.process_time() - started)
    return found


def main(kind, num, folder):
    folder = Path(folder)
    (folder / "canary_module.py").write_text("open('canary', 'w')\n")
    sys.path.insert(0, str(folder))
    inside = folder / "inside"
    inside.mkdir()
    one = {"weights": fuzz_weights, "pictures": fuzz_pictures}[kind](num, inside)
    before = {path for path in folder.rglob("*") if path.is_file()}
    sys.addaudithook(watch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = {"taken": 0, "refused": 0}
    for index in range(num):
        try:
            for found in one(np.random.default_rng([1, index]), index):
                counts[found] += 1
        except BaseException:
            print(f"number {index} ({kind}):", file=sys.stderr)
            raise
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024
    assert not FIRED, FIRED[:5]
    assert {path for path in folder.rglob("*") if path.is_file()} <= before | {
        inside / "it.safetensors",
        inside / "it.png",
    }
    assert grown < 1024, f"{grown} MiB"
    assert SLOWEST[0] < 20, f"{SLOWEST[0]} s"
    print(json.dumps({**counts, "MiB": grown, "slowest": round(SLOWEST[0], 2)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
