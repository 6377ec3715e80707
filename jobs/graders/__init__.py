"""Reward definitions: one module a type, its spec and its function together."""
