"""Adaptation: a region's own imagery and photographs in, weights for that region out."""
