"""TensorBoard's events, read back."""

import struct


def events(folder):
    """All scalars [(run, tag, step, value)] of the event files below a folder."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.glob("*/*tfevents*"):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                found.append(
                    (
                        path.parent.name,
                        value.tag,
                        event.step,
                        value.simple_value if value.HasField("simple_value") else None,
                    )
                )
    return found
