"""Losses, one to a file: tensors in, a scalar out."""
