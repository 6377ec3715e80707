"""Serving: base models and adapters behind chat, many requests in one batch."""
