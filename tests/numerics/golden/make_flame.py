"""Pick, from the golden numbers beside the project (../shared/golden/encoders), those that hold SMIRK and DECA in the
tests.

    python tests/numerics/golden/make_flame.py [FOLDER]

Kept are the first of two pictures and what is made of it, and as `facts` in the metadata: names and shapes of the
weights, crops of synthetic landmarks.
"""

import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
NAMES = ("smirk", "deca_flame")


def main(source: Path) -> None:
    """Write the files beside this script."""
    crops = read(source / "crops.json")["flame_crop"]
    for name in NAMES:
        facts = read(source / f"{name}.json")
        kept = {key: each[:1].clone() for key, each in load_file(source / f"{name}.safetensors").items()}
        told = {
            "state_dict": facts["state_dict"],
            "recipe_gain": facts["config"]["recipe_gain"],
            "crops": crops,
        }
        target = HERE / f"{name}.safetensors"
        save_file(kept, target, metadata={"facts": json.dumps(told, separators=(",", ":"), sort_keys=True)})
        sys.stdout.write(f"{target.name}: {len(kept)} tensors, {target.stat().st_size} bytes\n")


def read(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[3] / "shared" / "golden" / "encoders")
