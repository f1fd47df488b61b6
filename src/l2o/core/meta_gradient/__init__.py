"""The forms of the meta-gradient through the inner loop."""
