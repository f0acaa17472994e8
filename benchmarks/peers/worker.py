"""One way of reading, in a process and an environment of its own. Speaks JSON lines with benchmarks/loader.py.

    python -m benchmarks.peers.worker write|read WAY SIZE NUM_CLIPS FOLDER

`read` says {"ready": true}, then answers each line of picks with seconds, bytes from the disk and a digest.
"""

import gc
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.clips import Pick, make_clip
from benchmarks.peers.ways import WAYS, Reader, Way, cut


def main() -> None:
    """As the command line says."""
    action, name, size, num_clips, folder = sys.argv[1:]
    way, path = WAYS[name](size, int(num_clips)), Path(folder)
    if action == "write":
        way.write(path)
        return
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    read = way.open(path)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        picks = [Pick(*pick) for pick in asked["picks"]]
        found = _check(way, read, picks) if asked["check"] else _timed(read, picks)
        print(json.dumps(found), file=answers, flush=True)


def _timed(read: Reader, picks: list[Pick]) -> dict[str, Any]:
    gc.collect()
    before, started = _from_disk(), time.perf_counter()
    for pick in picks:
        read(pick)
    return {"seconds": time.perf_counter() - started, "disk_bytes": _from_disk() - before}


def _check(way: Way, read: Reader, picks: list[Pick]) -> dict[str, Any]:
    """Every byte of these windows against the clips as they were made."""
    for number, pick in enumerate(picks):
        wanted = way.shown(number, pick)
        found, made = read(pick), way.expected(cut(make_clip(way.size, wanted.clip), wanted))
        for array, values in made.items():
            if _digest(found[array]) != _digest(values) or found[array].shape != values.shape:
                return {"wrong": f"{array} of {wanted}"}
    return {"wrong": ""}


def _digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _from_disk() -> int:
    """Bytes that this process had fetched from the disk, page faults of mapped files included."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


if __name__ == "__main__":
    main()
