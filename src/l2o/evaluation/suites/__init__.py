"""Named collections of task families to compare optimizers on: every public module here is a suite.

A suite is a module with one function, `panels(quick=False) -> dict[str, Panel]`. `quick` is the same problems made small
(fewer steps, smaller nets and batches, those whose data ship with the package), for minutes instead of hours.
"""
