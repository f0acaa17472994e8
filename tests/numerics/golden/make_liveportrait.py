"""Pick, from the golden numbers beside the project (../shared/golden/encoders), those that hold LivePortrait's motion
extractor in the tests.

    python tests/numerics/golden/make_liveportrait.py [FOLDER]

Kept are the first of two pictures and all that is made of it, the probes, and as `facts` in the metadata: names and
shapes of the weights, crops of synthetic landmarks, which entries move in real clips and how far.
"""

import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
PROBES = ("bins_probe_degree", "bins_probe_logits", "euler_probe_pitch_yaw_roll", "euler_probe_rotation")


def main(source: Path) -> None:
    """Write the file beside this script."""
    numbers = load_file(source / "liveportrait_motion.safetensors")
    facts, crops, ranges = (
        read(source / f"{name}.json") for name in ("liveportrait_motion", "crops", "liveportrait_ranges")
    )
    kept = {name: each if name in PROBES else each[:1].clone() for name, each in numbers.items()}
    told = {
        "state_dict": facts["state_dict"],
        "recipe_gain": facts["config"]["recipe_gain"],
        "crops": crops["liveportrait"],
        "driving": crops["liveportrait_driving_bbox"],
        "ranges": {name: ranges[name] for name in ("exp_active", "exp_abs_max", "exp_std", "exp_inactive_abs_max")},
    }
    target = HERE / "liveportrait_motion.safetensors"
    save_file(kept, target, metadata={"facts": json.dumps(told, separators=(",", ":"), sort_keys=True)})
    sys.stdout.write(f"{target.name}: {len(kept)} tensors, {target.stat().st_size} bytes\n")


def read(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[3] / "shared" / "golden" / "encoders")
