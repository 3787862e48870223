"""The test matrix: every combination of what the fence depends on, and what happens in each."""
