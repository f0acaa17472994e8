"""Exports: what was stored comes out, whole or not at all, with every clip's licence."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file

from dualforce_model.errors import BusyError, InputError
from dualforce_model.manifests import read_manifest
from dualforce_model.schema import load_snapshot
from dualforce_model.shards import DamagedShardError
from dualforce_model.storage import Storage, file_digest, resumable_folder
from tasks.export_card import huggingface_card
from tasks.exporting import export
from tests.small_store import small_features, small_snapshot

ROOT = Path(__file__).resolve().parents[3]
NUM_CLIPS = 8
LICENCES = {f"c{index}": "CC BY 4.0" if index % 2 else "non-commercial research" for index in range(NUM_CLIPS)}


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    store = Storage(str(tmp_path / "store"))
    small_snapshot(store, validation=0.4)
    return store


def test_a_file_a_clip_with_all_arrays_and_its_licence(store: Storage, tmp_path: Path) -> None:
    snapshot = load_snapshot(store, "latest")
    found = export(store.url(), "latest", tmp_path / "out", "clips")
    assert (found.snapshot, found.clips, found.files) == (snapshot.id, NUM_CLIPS, NUM_CLIPS)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert {line["clip_id"]: line["licence"] for line in lines} == LICENCES
    for line in lines:
        path = tmp_path / "out" / line["file"]
        assert file_digest(path) == line["sha256"]
        arrays = load_file(path)
        made = small_features(int(line["clip_id"][1:]))
        assert set(arrays) == {f"{name}.{key}" for name, feature in made.items() for key in feature}
        for name, feature in made.items():
            for key, array in feature.items():
                np.testing.assert_array_equal(arrays[f"{name}.{key}"], array)
        with safe_open(path, framework="np") as opened:
            assert json.loads(opened.metadata()["clip"])["licence"] == line["licence"]
    assert found.num_bytes == sum(path.stat().st_size for path in (tmp_path / "out" / "clips").iterdir())
    assert json.loads((tmp_path / "out" / "snapshot.json").read_text())["id"] == snapshot.id
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(licence in card for licence in LICENCES.values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "clips",
        "export.json",
        "metadata.jsonl",
        "snapshot.json",
    ]


def test_a_data_set_for_hugging_face(store: Storage, tmp_path: Path) -> None:
    snapshot, out = load_snapshot(store, "latest"), tmp_path / "out"
    found = export(store.url(), "latest", out, "huggingface", file_bytes=4000)  # two clips or three
    header = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert (header["license"], header["size_categories"]) == ("other", ["n<1K"])
    splits = {item["split"]: sorted(out.glob(item["path"])) for item in header["configs"][0]["data_files"]}
    assert set(splits) == {name for name, count in snapshot.splits.items() if count}
    assert len(splits) == 2
    assert sorted(path for paths in splits.values() for path in paths) == sorted((out / "data").iterdir())
    seen = dict[str, str]()
    for split, paths in splits.items():
        assert [path.name for path in paths] == [
            f"{split}-{number:05d}-of-{len(paths):05d}.parquet" for number in range(len(paths))
        ]
        rows = [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
        assert len(rows) == snapshot.splits[split]
        for row in rows:
            seen[row["clip_id"]] = row["licence"]
            assert row["split"] == split
            for name, feature in small_features(int(row["clip_id"][1:])).items():
                for key, array in feature.items():
                    read = np.frombuffer(row[f"{name}_{key}"], array.dtype).reshape(row[f"{name}_{key}_shape"])
                    np.testing.assert_array_equal(read, array)
    assert seen == LICENCES
    assert found.files == len(list((out / "data").iterdir())) > 3
    field = pq.read_schema(next((out / "data").iterdir())).field("video_latents")
    assert field.metadata == {b"dtype": b"float16", b"order": b"C, little-endian"}


def test_the_card_s_own_words_read_an_array(store: Storage, tmp_path: Path) -> None:
    """The lines of the card, but for the library that is not installed here."""
    out = tmp_path / "out"
    export(store.url(), "latest", out, "huggingface", split="validation")
    words = (out / "README.md").read_text()
    (line,) = [line.strip() for line in words.splitlines() if "np.frombuffer" in line]
    row = pq.ParquetFile(next((out / "data").iterdir())).read().to_pylist()[0]
    names: dict[str, object] = {"np": np, "row": row}
    exec(line, names)  # noqa: S102 a line of our own
    np.testing.assert_array_equal(names["latents"], small_features(int(row["clip_id"][1:]))["video"]["latents"])
    assert 'split="validation"' in words
    assert "train-" not in words


@pytest.mark.parametrize("form", ["clips", "huggingface"])
def test_one_split_alone(store: Storage, tmp_path: Path, form: str) -> None:
    counts = load_snapshot(store, "latest").splits
    found = export(store.url(), "latest", tmp_path / "out", form, split="validation")  # type: ignore[arg-type]
    assert found.clips == counts["validation"] < NUM_CLIPS
    with pytest.raises(InputError, match="no clip in the split test"):
        export(store.url(), "latest", tmp_path / "other", form, split="test")  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_nothing_is_written_over(store: Storage, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="already there and is not written over"):
        export(store.url(), "latest", tmp_path / "out", "clips")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_damage_ends_an_export_and_leaves_no_folder_of_that_name(store: Storage, tmp_path: Path) -> None:
    path = next(Path(store.url()).rglob("features/audio/*/*.safetensors"))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamagedShardError, match="damaged"):
        export(store.url(), "latest", tmp_path / "out", "huggingface")
    assert not (tmp_path / "out").exists()
    path.write_bytes(data)
    assert export(store.url(), "latest", tmp_path / "out", "huggingface").clips == NUM_CLIPS


def test_one_who_exports_to_the_same_folder_is_told(tmp_path: Path) -> None:
    with resumable_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        with pytest.raises(BusyError, match="another process is writing"), resumable_folder(tmp_path / "out"):
            pass
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


EXPORT = """
import os, signal, sys
from pathlib import Path
from tasks import exporting
written = exporting.atomic_path if sys.argv[3] == "huggingface" else exporting.write_bytes
count = 0
def dying(*arguments):
    global count
    count += 1
    if count > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return written(*arguments)
exporting.atomic_path = exporting.write_bytes = dying
exporting.export(sys.argv[1], "latest", Path(sys.argv[2]), sys.argv[3], file_bytes=4000)
"""


@pytest.mark.parametrize("form", ["clips", "huggingface"])
def test_killed_it_leaves_no_folder_and_goes_on_where_it_was(store: Storage, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", EXPORT, store.url(), str(out), form]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    partial = tmp_path / ".out.partial"
    kept = {path: path.stat().st_mtime_ns for path in partial.rglob("*") if path.suffix in (".safetensors", ".parquet")}
    assert len(kept) == 2
    with pytest.raises(InputError, match="another export that was not finished"):
        export(store.url(), "latest", out, form, split="train")  # type: ignore[arg-type]
    export(store.url(), "latest", out, form, file_bytes=4000)  # type: ignore[arg-type]
    for path, written in kept.items():
        assert (out / path.relative_to(partial)).stat().st_mtime_ns == written
    export(store.url(), "latest", tmp_path / "calm", form, file_bytes=4000)  # type: ignore[arg-type]
    names = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path / "calm") for path in (tmp_path / "calm").rglob("*.*"))
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name


def test_markup_of_a_stranger_s_list_is_set_as_code(store: Storage) -> None:
    snapshot = load_snapshot(store, "latest")
    rows = [row.model_copy(update={"licence": "x\n# <script>"}) for row in read_manifest(store, snapshot)]
    lines = [line for line in huggingface_card(snapshot, rows).splitlines() if "<script>" in line]
    assert lines
    assert all(line.startswith("    ") for line in lines)
