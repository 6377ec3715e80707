"""Grading work that may take long or for ever, in processes of its own with a deadline."""
