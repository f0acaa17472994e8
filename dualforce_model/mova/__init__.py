"""MOVA-360p, the parent of this model, as a system: read its checkpoint, check it, run its two-stage inference.

Everything is built out of diffusers' classes under upstream's numbers; `tests/numerics` holds it to them.
"""
