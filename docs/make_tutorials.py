"""Runs docs/tutorials/*.py and writes each as a page with what it prints and draws: python docs/make_tutorials.py [NAME ...]

A script is cut at its `# %%` lines: comments after `# %% [markdown]` are the page's text, the rest is code. What a cell prints
stands below it, and so does every figure that it leaves open. A page is written again only when its script or the package
has changed.
"""

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

TUTORIALS = Path(__file__).parent / "tutorials"
SOURCES = Path(__file__).parents[1] / "src" / "l2o"
LIMIT = 1200  # seconds, for machines that are busy; on two idle cores a script takes at most 30 or so


def scripts() -> list[Path]:
    return sorted(TUTORIALS.glob("*.py"))


def main(names: list[str]) -> None:
    package = hashlib.sha256()
    for path in sorted(p for p in SOURCES.rglob("*") if p.suffix in (".py", ".safetensors")):
        package.update(path.read_bytes())
    package.update(Path(__file__).read_bytes())
    for script in scripts():
        if names and script.stem not in names:
            continue
        key = hashlib.sha256(package.digest() + script.read_bytes()).hexdigest()
        page = script.with_suffix(".md")
        if page.is_file() and page.read_text().startswith(f"% {key}"):
            print(f"{script.name}: as it was")
            continue
        started = time.monotonic()
        command = [sys.executable, __file__, "--run", str(script), key]
        environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONWARNINGS": "default"}
        subprocess.run(command, check=True, timeout=LIMIT, env=environment)
        print(f"{script.name}: {time.monotonic() - started:.0f} s")


def cells(text: str):
    """("markdown" or "code", first line, text) of each cell."""
    kind, lines, first = "code", [], 0
    for number, line in enumerate([*text.splitlines(), "# %%"], 1):
        if not line.startswith("# %%"):
            lines.append(line)
            continue
        if kind == "markdown":
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        if any(lines):
            yield kind, first, "\n".join(lines).strip("\n")
        kind, lines, first = "markdown" if "[markdown]" in line else "code", [], number


def run(script: Path, key: str) -> None:
    """Runs the cells in one namespace, and writes the page whole or not at all."""
    lines, namespace, num_figures = [f"% {key}, written by docs/make_tutorials.py", ""], {"__name__": "__main__"}, 0
    for kind, first, text in cells(script.read_text()):
        if kind == "markdown":
            lines += [text.strip("\n"), ""]
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * first + text, str(script), "exec"), namespace)  # so tracebacks name the line
        lines += ["```python", text, "```", ""]
        if printed.getvalue().strip():
            lines += ["```{code-block} text", ":class: l2o-out", "", printed.getvalue().rstrip(), "```", ""]
        if "matplotlib.pyplot" in sys.modules:
            plt = sys.modules["matplotlib.pyplot"]
            for number in plt.get_fignums():
                num_figures += 1
                picture = f"{script.stem}-{num_figures}.png"
                plt.figure(number).savefig(script.parent / picture, dpi=130)
                lines += [f"![Figure {num_figures} of this tutorial]({picture})", ""]
            plt.close("all")
    lines += [f"*The script of this page is `docs/tutorials/{script.name}`; it ran when this site was built.*", ""]
    script.with_suffix(".md").write_text("\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(Path(sys.argv[2]), sys.argv[3])
    else:
        main(sys.argv[1:])
