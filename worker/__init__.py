"""The GPU side: Celery, the trainer process and the algorithm."""
