"""What a task and a rule are, and the one inner loop."""
