"""Measurements of the model: ratios of ways to do the same work, taken in turns within one run. See README.md."""
