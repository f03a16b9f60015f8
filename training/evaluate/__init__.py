"""Evaluation: an encoder and pairs in, recall and metres out."""

from training.evaluate.recall import recall_at

__all__ = ["recall_at"]
