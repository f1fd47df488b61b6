"""Language models of characters: two recurrent networks and a transformer."""

from functools import partial

from l2o.evaluation.panel import Panel
from l2o.tasks import char_rnn, transformer

_TEXT = "on the first volume of Austen's Persuasion; sizes are ours"


def panels(quick: bool = False) -> dict[str, Panel]:
    """Three panels."""
    horizon = 100 if quick else 500
    length, batch_size = (8, 8) if quick else (32, 32)
    hidden = 16 if quick else 64
    width, num_layers, num_heads = (16, 1, 2) if quick else (64, 2, 4)

    def panel(family, source, **settings):
        return Panel(
            partial(family, length=length, batch_size=batch_size, **settings),
            horizon,
            2 * horizon,
            f"{source} {_TEXT}",
            window=horizon // 10,
            batch_size=None if quick else 1,
            data=("persuasion",),
        )

    return {
        "gru": panel(char_rnn.family, f"GRU (Cho et al. 2014) of {hidden} units", cell="gru", hidden=hidden),
        "lstm": panel(char_rnn.family, f"LSTM (Gers et al. 2000) of {hidden} units", cell="lstm", hidden=hidden),
        "transformer": panel(
            transformer.family,
            f"Decoder like GPT-2 (Radford et al. 2019) of {num_layers} layers, width {width},",
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
        ),
    }
