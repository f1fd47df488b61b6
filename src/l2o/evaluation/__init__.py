"""Who wins, honestly, and what a rule amounts to."""
