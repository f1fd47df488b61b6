"""How rules are made: one outer loop, and the estimators of its gradient."""
