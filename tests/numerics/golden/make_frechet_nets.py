"""Pick, from the golden numbers beside the project (../shared/golden/encoders), those that hold FID's and FVD's nets.

    python tests/numerics/golden/make_frechet_nets.py [FOLDER]

Kept is the first of the two pictures and of the two clips, with all that was told of it. Names and shapes of the
weights are in the metadata under `facts`.
"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
NETS = ("fid_inception", "i3d_kinetics400")


def main(source: Path) -> None:
    """Write the files beside this script."""
    for net in NETS:
        facts = json.loads((source / f"{net}.json").read_text(encoding="utf-8"))
        told = {"state_dict": facts["state_dict"], "recipe_gain": facts["config"]["recipe_gain"]}
        kept = {name: tensor[:1].clone() for name, tensor in load_file(source / f"{net}.safetensors").items()}
        target = HERE / f"{net}.safetensors"
        save_file(kept, target, metadata={"facts": json.dumps(told, separators=(",", ":"), sort_keys=True)})
        sys.stdout.write(f"{target.name}: {len(kept)} tensors, {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[3] / "shared" / "golden" / "encoders")
