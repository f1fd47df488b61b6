from .behaviour import behaviour_figures
from .behaviour_text import exactly, explained, explanation_as_dict, explanation_table
from .designed import design_page, design_text
from .events import write_cell, write_events
from .figures import figure, image_figure, profile_figure
from .files import Written, write
from .html import page
from .terminal import overall_table, table
from .text import summarised

__all__ = [
    "Written",
    "behaviour_figures",
    "design_page",
    "design_text",
    "exactly",
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
