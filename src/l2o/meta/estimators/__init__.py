"""Estimators of the meta-gradient. Every public module here is one, found by its name."""

from l2o.meta.estimators._base import AbstractGradientEstimator, Estimate

__all__ = ["AbstractGradientEstimator", "Estimate"]
