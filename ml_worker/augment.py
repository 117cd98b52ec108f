"""Weak and strong views of image batches, as tensor operations."""
