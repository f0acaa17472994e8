"""Upstream's parameter names for ours, which are diffusers'. Every rule is a plain renaming; nothing is merged."""

import re

# (our spelling, upstream's), applied in order to the whole name
_TOWER = (
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
)
_ATTENTION = ((r"\.to_out\.0\.", ".o."), (r"\.to_([qkv])\.", r".\1."))
# places in upstream's lists of layers
_ENCODER_BLOCK = {"res_unit1": 0, "res_unit2": 1, "res_unit3": 2, "snake1": 3, "conv1": 4}
_DECODER_BLOCK = {"snake1": 0, "conv_t1": 1, "res_unit1": 2, "res_unit2": 3, "res_unit3": 4}
_RESIDUAL_UNIT = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}


def tower_name(ours: str) -> str:
    """Name of a tower's parameter in the checkpoint."""
    return _renamed(ours, (*_TOWER, *_ATTENTION))


def bridge_name(ours: str) -> str:
    """Name of a bridge's parameter in the checkpoint."""
    return _renamed(ours, _ATTENTION)


def sound_name(ours: str, num_strides: int) -> str:
    """Name of an audio VAE's parameter in the checkpoint, where parts have positions in lists and no names."""
    last = num_strides + 1
    half, _, rest = ours.partition(".")
    if half in ("in_proj", "out_proj"):
        return f"{'quant_conv' if half == 'in_proj' else 'post_quant_conv'}.{rest}"
    parts = {"conv1": 0, "snake1": last, "conv2": last + 1}
    inner = _ENCODER_BLOCK if half == "encoder" else _DECODER_BLOCK
    stem = "encoder.block" if half == "encoder" else "decoder.model"
    first, *tail = rest.split(".")
    if first != "block":
        return ".".join([stem, str(parts[first]), *tail])
    index, part, *tail = tail
    names = [stem, str(int(index) + 1), "block", str(inner[part])]
    if part.startswith("res_unit"):
        names += ["block", str(_RESIDUAL_UNIT[tail[0]])]
        tail = tail[1:]
    return ".".join([*names, *tail])


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
