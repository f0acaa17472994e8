"""Pick, from the golden numbers beside the project (../shared/golden/encoders), those that hold SyncNet in the tests.

    python tests/numerics/golden/make_syncnet.py [FOLDER]

Kept are the sound and all that is heard, five of the nine frames (one window) and what is seen in them, and distances
at the reach of published scores. Names and shapes of the weights are in the metadata under `facts`.
"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
KEPT = ("audio_i16", "mfcc_frames_by_13", "audio_feature", "metric_audio_feature", "metric_video_feature")
DISTANCES = ("metric_v15_mean_dist", "metric_v15_result_offset_mindist_conf", "metric_v15_dists")
WINDOW = {"frames_bgr_u8": 5, "video_feature": 1, "video_mid_512": 1}


def main(source: Path) -> None:
    """Write the file beside this script."""
    numbers = load_file(source / "syncnet_v2.safetensors")
    facts = json.loads((source / "syncnet_v2.json").read_text(encoding="utf-8"))
    track = json.loads((source / "crops.json").read_text(encoding="utf-8"))["syncnet_track"]
    kept = {name: numbers[name] for name in (*KEPT, *DISTANCES)}
    kept |= {name: numbers[name][:length].clone() for name, length in WINDOW.items()}
    told = {"state_dict": facts["state_dict"], "recipe_gain": facts["config"]["recipe_gain"], "track": track}
    target = HERE / "syncnet_v2.safetensors"
    save_file(kept, target, metadata={"facts": json.dumps(told, separators=(",", ":"), sort_keys=True)})
    sys.stdout.write(f"{target.name}: {len(kept)} tensors, {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[3] / "shared" / "golden" / "encoders")
