"""Update rules. Every public module here is one, found by its name: `build(key, **arguments)`."""
