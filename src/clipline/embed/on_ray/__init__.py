"""Embedding on many machines: the same batches under Ray Data."""
