"""Latents and text states of a dataset, computed once, and read by training."""
