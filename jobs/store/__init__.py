"""Every query, one module a noun."""
