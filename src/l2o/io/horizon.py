"""What a run that passes its rule's horizon is told, in JAX and in PyTorch. Needs neither."""

# After the steps that a rule was meta-trained for: see `l2o.Beyond`.
MODES = ("hold", "anneal", "fallback")
_WHAT = {
    None: "Nothing is done about that, and it may ruin the run.",
    "hold": "From here on the params are held where they are.",
    "anneal": "From here on its steps are annealed, and after as many steps again the params are held.",
    "fallback": "From here on Adam goes on in its place, with steps that fall as 1/t.",
}


def check_how(how: str) -> None:
    """Makes sure that `how` is one of the three.

    **Raises:** `ValueError` if it is not.
    """
    if how not in MODES:
        raise ValueError(f"`beyond` must be one of {', '.join(map(repr, MODES))}, or None, got {how!r}.")


def passed(name: str, horizon: int, how: str | None) -> str:
    """The warning."""
    others = " or ".join(f"beyond={other!r}" for other in (*MODES, None) if other != how)
    return (
        f"{name} was meta-trained on runs of {horizon} steps, and this run goes on beyond them. {_WHAT[how]} "
        f"For something else pass {others}; its card says what was measured."
    )
