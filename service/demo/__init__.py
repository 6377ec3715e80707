"""`honed demo`: the whole service on this machine, one real job, and what it learned."""
