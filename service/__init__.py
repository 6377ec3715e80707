"""The HTTP side: it never loads torch."""
