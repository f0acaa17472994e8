"""Pick, from the golden numbers beside the project (../shared/golden/mova), those that the tests hold the code to.

    python tests/numerics/golden/make.py [FOLDER]

Each file here is one module of upstream: named inputs and outputs, and under the metadata key `facts` its
configuration, its parameters (name, shape) and checks on the weights, which are a function of the names
(`tests/numerics/conftest.py` makes them).
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
# module -> what is kept; every name is a full tensor name
KEPT = {
    "video_dit": r"(small|hd128)/in\..*|small/rope\..*"
    r"|small/std0\.08/out\.(t873\.25|batch2_t900_t300|per_frame|per_frame_causal_block[123])"
    r"|hd128/std0\.0[28]/out\..*|hd128/std0\.08/mid\.t873\.25"
    r"\.(t_sinusoid|t_embed|t_mod|context_emb|tokens|block0\.(self_attn_out|cross_attn_out|out)|block1\.out)",
    "audio_dit": r"hd128/(in\.|rope_dac|std0\.0[28]/out\.(batch2|t0|t1000)$).*"
    r"|small/in\..*|small/std0\.08/out\.batch2",
    "bridge": r"hd128/(in|rope)\..*|hd128/std0\.0[28]/.*"
    r"|small/(in|rope)\..*|small/std0\.08/out\.rope\.(visual|audio|(a2v0_v2a2|scale0\.5)\.(visual|audio))",
    "aligned_rope": r"(r24|r24_bias|r25|r25_bias|r24_grid)/visual_.*|apply/.*",
    "flow_match": r"(ckpt_train1000|ckpt_infer\d+|infer(50|10)_shift5|infer10_shift[13]|infer10_shift5_extra_one_step"
    r"|infer10_shift5_strength0\.6|train1000_shift5)/(?!training_weights).*",
    "flow_match_pair": r"(?!shift_changed).*",
    "dual_tower": r"in\..*|(full_rope|full_norope|full_rope_bias|shallow_rope)/std0\.08/.*|full_rope/std0\.02/.*"
    r"|cfg_loop/step[03]\..*",
    "dac_vae": r".*",
}
DROPPED_FACTS = ("tensors", "diffusers_wan_key_map", "fp32_noise_max_abs_vs_fp64", "num_params")


def main(source: Path) -> None:
    """Write one file per module beside this script."""
    for module, pattern in KEPT.items():
        with safe_open(source / f"{module}.safetensors", "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if re.fullmatch(pattern, name)}  # noqa: SIM118
        facts = _trimmed(json.loads((source / f"{module}.json").read_text(encoding="utf-8")))
        target = HERE / f"{module}.safetensors"
        save_file(tensors, target, metadata={"facts": json.dumps(facts, separators=(",", ":"), sort_keys=True)})
        sys.stdout.write(f"{target.name}: {len(tensors)} tensors, {target.stat().st_size} bytes\n")


def _trimmed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _trimmed(inner) for key, inner in value.items() if key not in DROPPED_FACTS}
    return value


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[3] / "shared" / "golden" / "mova")
