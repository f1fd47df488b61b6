"""Task families. Every public module here is one, found by its name: `family(**arguments)` and a usual `HORIZON`."""
