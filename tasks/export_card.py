"""README.md of an export: what it is, whose licences its clips have, how to read it."""

from collections import Counter
from collections.abc import Sequence

import yaml

from dualforce_model.schema import SPLITS, Snapshot, SnapshotRow, specs_among
from tasks.tables import table

LISTED_CLIPS = 500  # beyond, the licence of a clip is in its row alone
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def clips_card(snapshot: Snapshot, rows: Sequence[SnapshotRow]) -> str:
    """Of a folder with a file a clip."""
    return f"""{_what(snapshot, rows)}
## Reading it

`metadata.jsonl` has a line a clip: id, source, licence, span, split, weight, the file with its SHA-256, and the keys
that say what each feature was made from. `clips/<clip id>.safetensors` has the arrays, named `<modality>.<array>`.
`snapshot.json` has means and deviations per entry.

    from safetensors.numpy import load_file
    latents = load_file("clips/CLIP.safetensors")["video.latents"]

{_arrays(snapshot, "{}.{}")}
{_licences(rows)}"""


def huggingface_card(snapshot: Snapshot, rows: Sequence[SnapshotRow]) -> str:
    """Of a data set that `datasets.load_dataset(FOLDER)` reads."""
    here = [split for split in SPLITS if any(row.split == split for row in rows)]
    size = next((words for limit, words in SIZES if len(rows) < limit), "1M<n<10M")
    header = {
        "pretty_name": f"{snapshot.dataset}, snapshot {snapshot.id}",
        "license": "other",
        "license_name": "per-clip",
        "tags": ["talking-head", "audio-driven", "dualforce"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in here],
            }
        ],
    }
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---

{_what(snapshot, rows)}
## Reading it

An array is a binary column (little-endian, last axis fastest) beside a column with its shape; the types are below.

    import datasets, numpy as np
    row = datasets.load_dataset("FOLDER", split="{here[0]}")[0]
    latents = np.frombuffer(row["video_latents"], np.float16).reshape(row["video_latents_shape"])

`snapshot.json` has means and deviations per entry.

{_arrays(snapshot, "{}_{}")}
{_licences(rows)}"""


def _what(snapshot: Snapshot, rows: Sequence[SnapshotRow]) -> str:
    splits = ", ".join(f"{sum(row.split == split for row in rows)} {split}" for split in SPLITS)
    return f"""# {snapshot.dataset}

Features of {len(rows)} talking-head clips ({splits}), 25 frames per second, 16 kHz sound. Snapshot `{snapshot.id}`,
content `{snapshot.content}`, policy {snapshot.policy.get("name", "none")}, made {snapshot.created_at}. No picture and
no sound is in here, but what encoders made of them.
"""


def _arrays(snapshot: Snapshot, name: str) -> str:
    rows = [
        (name.format(modality, spec.name), spec.dtype, f"{spec.rows}, {', '.join(map(str, info.tensors[spec.name]))}")
        for modality, info in sorted(snapshot.modalities.items())
        for spec in specs_among(modality, info.tensors)
    ]
    return _block(("array", "type", "shape"), rows)


def _licences(rows: Sequence[SnapshotRow]) -> str:
    """Every licence with its sources and clips: whoever uses a clip must keep its own."""
    counts = Counter((row.licence, row.source) for row in rows)
    groups = _block(("licence", "source", "clips"), [(*key, count) for key, count in sorted(counts.items())])
    text = f"## Licences\n\nThe source sets the licence of each clip; every row carries it.\n\n{groups}"
    if len(rows) > LISTED_CLIPS:
        return text
    return f"{text}\n{_block(('clip', 'licence'), [(row.clip_id, row.licence) for row in rows])}"


def _block(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table set as code: names and licences come from strangers' lists, and no markup of theirs is alive."""
    cells = [[" ".join(cell.split()) if isinstance(cell, str) else cell for cell in row] for row in rows]
    return "".join(f"    {line}\n" for line in table(head, cells).splitlines())
