"""Optimizers made of others, one a file."""
