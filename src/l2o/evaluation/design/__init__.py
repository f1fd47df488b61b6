"""From a problem class to an optimizer: tune the baselines, search a rule of a few constants, race them, report."""

from l2o.evaluation.design.designing import design
from l2o.evaluation.design.result import Candidate, Designed, Progress

__all__ = ["Candidate", "Designed", "Progress", "design"]
