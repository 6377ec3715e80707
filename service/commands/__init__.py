"""The parts of the `honed` command, one module a noun."""
