"""Ways to keep the same clips and to read a random window of a random clip: ours, plain files, and the peers.

Each is used as its own documentation advises for data on a local disk. `write` fills a folder, `open` gives a function
from a pick to the window's arrays. Packages are imported where they are used: no environment has them all.
"""

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.clips import NUM_STEPS, SHAPES, Arrays, Pick, make_clip, rows_of

Reader = Callable[[Pick], Arrays]
SHARD_BYTES = 64 << 20
CLIPS_IN_A_TAR = 50


class Way:
    """A way to keep clips and to read them."""

    name: str
    compared = True  # with the other ways; not where it does more than they
    kept_as = ""  # the way whose files it reads; empty: its own

    def __init__(self, size: str, num_clips: int) -> None:
        self.size, self.num_clips = size, num_clips

    def write(self, folder: Path) -> None:
        """Keep all clips below a folder."""
        raise NotImplementedError

    def open(self, folder: Path) -> Reader:
        """Make ready to read."""
        raise NotImplementedError

    def shown(self, number: int, pick: Pick) -> Pick:
        """The window that comes when this one is asked for as number so and so."""
        return pick

    def expected(self, window: Arrays) -> Arrays:
        """What is read of a window, by name: all of it, as it was kept."""
        return window

    def clips(self) -> Iterator[Arrays]:
        """All clips, one at a time."""
        return (make_clip(self.size, clip) for clip in range(self.num_clips))


def cut(whole: Arrays, pick: Pick) -> Arrays:
    """A window out of a whole clip."""
    return {name: array[rows_of(name, pick)] for name, array in whole.items()}


class OurStore(Way):
    """Packed shards by modality, positioned reads, every block that is read checked; the rows are known beforehand."""

    name = "dualforce"

    def write(self, folder: Path) -> None:
        from benchmarks.peers.snapshot import write_snapshot
        from dualforce_model.schema import FeatureRef
        from dualforce_model.shards import pack_shard
        from dualforce_model.storage import Storage

        store, refs = Storage(str(folder)), dict[str, dict[str, FeatureRef]]()
        names = [f"c{clip:06d}" for clip in range(self.num_clips)]
        modalities = sorted({name.split("/")[0] for name in SHAPES[self.size]})
        for first in range(0, self.num_clips, CLIPS_IN_A_TAR):
            part = {name: make_clip(self.size, int(name[1:])) for name in names[first : first + CLIPS_IN_A_TAR]}
            for modality in modalities:
                features = {
                    clip: {name.split("/")[1]: array for name, array in arrays.items() if name.startswith(modality)}
                    for clip, arrays in part.items()
                }
                for clip, ref in pack_shard(store, modality, "fp", features, dict.fromkeys(part, "key")).items():
                    refs.setdefault(clip, {})[modality] = ref
        write_snapshot(store, self.size, refs)

    def open(self, folder: Path) -> Reader:
        from benchmarks.peers.snapshot import SNAPSHOT_ID
        from dualforce_model.schema import load_snapshot, read_manifest
        from dualforce_model.shards import Wanted, read_rows
        from dualforce_model.storage import Storage

        store = Storage(str(folder))
        refs = [row.features for row in read_manifest(store, load_snapshot(store, SNAPSHOT_ID))]
        places = [(name, *name.split("/")) for name in SHAPES[self.size]]

        def read(pick: Pick) -> Arrays:
            clip = refs[pick.clip]
            asked = [(name, clip[modality], array, rows_of(name, pick)) for name, modality, array in places]
            found = read_rows(store, [Wanted(ref, array, rows.start, rows.stop) for _, ref, array, rows in asked])
            return dict(zip(SHAPES[self.size], found, strict=True))

        return read


class OurDataset(OurStore):
    """What training calls: the data set reads a window, its two questions to the store and the clip's row included.

    Besides what the others read it reads what step 0 has of structure and FLAME. Which pictures a clip has is read and
    used, and not handed on.
    """

    name, kept_as = "dualforce, SnapshotDataset", OurStore.name
    named = {
        "video/latents": "latents",
        "video/references": "references",
        "structure/motion": "motion",
        "audio/tokens": "tokens",
        "flame/parameters": "parameters",
        "reference/features": "features",
    }

    def open(self, folder: Path) -> Reader:
        dataset = opened(folder)

        def read(pick: Pick) -> Arrays:
            found = dataset.stored_window(dataset.rows[pick.clip], pick.start, pick.reference)
            return {name: found[own] for name, own in self.named.items()}

        return read

    def expected(self, window: Arrays) -> Arrays:
        return {name: window[name] for name in self.named}


class OurSample(OurStore):
    """All of a training sample: a window that the data set draws, read, widened to float32 and standardised."""

    name, kept_as = "dualforce, sample(): also converts and standardises", OurStore.name
    compared = False

    def open(self, folder: Path) -> Reader:
        self.dataset = opened(folder)
        return lambda pick: self.dataset.sample(0, pick.clip)

    def shown(self, number: int, pick: Pick) -> Pick:
        row, start, reference = self.dataset.drawn(0, pick.clip)
        return Pick(int(row.clip_id[1:]), start, reference)

    def expected(self, window: Arrays) -> Arrays:
        video = np.concatenate([window["video/references"], window["video/latents"]]).astype(np.float32)
        return {"video": video, "features": window["reference/features"][0].astype(np.float32)}


def opened(folder: Path) -> Any:
    """The product's data set: windows of the reference and as many steps as the others read."""
    from benchmarks.peers.snapshot import SNAPSHOT_ID
    from dualforce_model.data import SnapshotDataset

    return SnapshotDataset(str(folder), SNAPSHOT_ID, NUM_STEPS + 1)


class FileAClip(Way):
    """A safetensors file a clip, slices through `safe_open`, as its documentation shows for lazy loading."""

    name = "safetensors per clip"

    def write(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        for clip, arrays in enumerate(self.clips()):
            save_file(arrays, folder / f"{clip:06d}.safetensors")

    def open(self, folder: Path) -> Reader:
        from safetensors import safe_open

        def read(pick: Pick) -> Arrays:
            with safe_open(folder / f"{pick.clip:06d}.safetensors", framework="np") as opened:
                return {name: opened.get_slice(name)[rows_of(name, pick)] for name in SHAPES[self.size]}

        return read


class IndexedTar(Way):
    """All arrays of a clip side by side in a tar of 50, found by an index and read by position: no peer does this."""

    name = "row-major tar, index"

    def write(self, folder: Path) -> None:
        index: list[dict[str, tuple[str, int]]] = []
        for first in range(0, self.num_clips, CLIPS_IN_A_TAR):
            path = folder / f"{first // CLIPS_IN_A_TAR:05d}.tar"
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for clip in range(first, min(first + CLIPS_IN_A_TAR, self.num_clips)):
                    places = {}
                    for name, array in make_clip(self.size, clip).items():
                        info = tarfile.TarInfo(f"{clip:06d}.{name.replace('/', '.')}")
                        info.size = array.nbytes
                        tar.addfile(info, BytesIO(array.tobytes()))
                        places[name] = (path.name, tar.offset - -(-array.nbytes // 512) * 512)
                    index.append(places)
        (folder / "index.json").write_text(json.dumps(index))

    def open(self, folder: Path) -> Reader:
        index = json.loads((folder / "index.json").read_text())
        files = {path.name: os.open(path, os.O_RDONLY) for path in sorted(folder.glob("*.tar"))}

        def read(pick: Pick) -> Arrays:
            window = Arrays()
            for name, (shape, dtype) in SHAPES[self.size].items():
                file, offset = index[pick.clip][name]
                first, last, _ = rows_of(name, pick).indices(shape[0])
                row = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
                data = os.pread(files[file], (last - first) * row, offset + first * row)
                window[name] = np.frombuffer(data, dtype).reshape(last - first, *shape[1:])
            return window

        return read


class WebDatasetTar(Way):
    """Tars by `webdataset.ShardWriter`. It reads in order only: to get at a random clip is to read up to it.

    So what is timed is what its documentation advises for training: shuffled shards, read through, a window of each.
    """

    name = "webdataset, in order"

    def shown(self, number: int, pick: Pick) -> Pick:
        return pick._replace(clip=number)

    def write(self, folder: Path) -> None:
        import webdataset

        pattern = str(folder / "%05d.tar")
        with webdataset.ShardWriter(pattern, maxcount=CLIPS_IN_A_TAR, maxsize=1 << 40, verbose=0) as sink:
            for clip, arrays in enumerate(self.clips()):
                sink.write(
                    {"__key__": f"{clip:06d}"} | {f"{n.replace('/', '-')}.npy": array for n, array in arrays.items()}
                )

    def open(self, folder: Path) -> Reader:
        import webdataset

        shards = [str(path) for path in sorted(folder.glob("*.tar"))]
        samples: Iterator[dict[str, Any]] = iter(())

        def read(pick: Pick) -> Arrays:
            nonlocal samples
            sample = next(samples, None)
            if sample is None:
                samples = iter(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode())
                sample = next(samples)
            whole = {name: sample[f"{name.replace('/', '-')}.npy"] for name in SHAPES[self.size]}
            return cut(whole, pick._replace(clip=int(sample["__key__"])))

        return read


class LitDataChunks(Way):
    """Chunks by `litdata.optimize`, read by `StreamingDataset[i]`."""

    name = "litdata"

    def write(self, folder: Path) -> None:
        import functools

        import litdata

        litdata.optimize(
            fn=functools.partial(make_clip, self.size),
            inputs=list(range(self.num_clips)),
            output_dir=str(folder),
            chunk_bytes=SHARD_BYTES,
            num_workers=1,
            start_method="fork",
            verbose=False,
        )

    def open(self, folder: Path) -> Reader:
        import litdata

        dataset = litdata.StreamingDataset(str(folder), shuffle=False)
        return lambda pick: cut(dataset[pick.clip], pick)


class MosaicShards(Way):
    """MDS by `streaming.MDSWriter`, read by `StreamingDataset[i]`."""

    name = "mds"

    def write(self, folder: Path) -> None:
        from streaming import MDSWriter

        columns = {
            name: f"ndarray:{dtype}:{','.join(map(str, shape))}" for name, (shape, dtype) in SHAPES[self.size].items()
        }
        with MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as sink:
            for arrays in self.clips():
                sink.write(arrays)

    def open(self, folder: Path) -> Reader:
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        dataset = StreamingDataset(local=str(folder), shuffle=False, batch_size=1)
        return lambda pick: cut(dataset[pick.clip], pick)


class LanceRows(Way):
    """A Lance data set, a row a clip, arrays as large binary, read by `take`."""

    name = "lance, take"
    metadata: dict[str, str] | None = None

    def write(self, folder: Path) -> None:
        import lance
        import pyarrow as pa

        kind = pa.large_binary()
        schema = pa.schema([pa.field(name, kind, metadata=self.metadata) for name in SHAPES[self.size]])

        def batches() -> Iterator[Any]:
            for arrays in self.clips():
                columns = [pa.array([array.tobytes()], kind) for array in arrays.values()]
                yield pa.record_batch(columns, schema=schema)

        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(folder / "clips.lance"))

    def open(self, folder: Path) -> Reader:
        import lance

        dataset, names = lance.dataset(str(folder / "clips.lance")), list(SHAPES[self.size])

        def read(pick: Pick) -> Arrays:
            row = dataset.take([pick.clip], columns=names)
            whole = {}
            for name, (shape, dtype) in SHAPES[self.size].items():
                whole[name] = np.frombuffer(row[name][0].as_buffer(), dtype).reshape(shape)
            return cut(whole, pick)

        return read


class LanceBlobs(LanceRows):
    """The same with blob encoding, which its documentation advises for large values: files to seek in."""

    name = "lance, blobs"
    metadata = {"lance-encoding:blob": "true"}

    def open(self, folder: Path) -> Reader:
        import lance

        dataset = lance.dataset(str(folder / "clips.lance"))

        def read(pick: Pick) -> Arrays:
            window = Arrays()
            for name, (shape, dtype) in SHAPES[self.size].items():
                first, last, _ = rows_of(name, pick).indices(shape[0])
                row = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
                (blob,) = dataset.take_blobs(blob_column=name, indices=[pick.clip])
                with blob as file:
                    file.seek(first * row)
                    window[name] = np.frombuffer(file.read((last - first) * row), dtype).reshape(
                        last - first, *shape[1:]
                    )
            return window

        return read


WAYS: dict[str, type[Way]] = {
    kind.name: kind
    for kind in (
        OurStore,
        OurDataset,
        OurSample,
        IndexedTar,
        FileAClip,
        WebDatasetTar,
        LitDataChunks,
        MosaicShards,
        LanceRows,
        LanceBlobs,
    )
}
