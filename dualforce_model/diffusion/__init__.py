"""Noise schedule, regimes, sampler and guidance: what the trainer and the sampler share."""
