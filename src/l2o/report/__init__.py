"""Tables, figures and pages of comparisons, and of explanations."""

from l2o.report.behaviour import behaviour_figures
from l2o.report.behaviour_text import explained, explanation_as_dict, explanation_table
from l2o.report.events import write_cell, write_events
from l2o.report.figures import figure, image_figure, profile_figure
from l2o.report.files import Written, write
from l2o.report.html import page
from l2o.report.terminal import overall_table, table
from l2o.report.text import summarised

__all__ = [
    "Written",
    "behaviour_figures",
    "explained",
    "explanation_as_dict",
    "explanation_table",
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
