"""Tables, figures and pages of comparisons."""

from l2o.report.events import write_cell, write_events
from l2o.report.figures import figure, image_figure, profile_figure
from l2o.report.files import Written, write
from l2o.report.html import page
from l2o.report.terminal import overall_table, table
from l2o.report.text import summarised

__all__ = [
    "Written",
    "figure",
    "image_figure",
    "overall_table",
    "page",
    "profile_figure",
    "summarised",
    "table",
    "write",
    "write_cell",
    "write_events",
]
