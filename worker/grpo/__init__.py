"""GRPO: tensors in, tensors out; no database, broker or HTTP."""
