"""`honed doctor`: whether each thing that a stack stands on is well, and how to mend it."""
