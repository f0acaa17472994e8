"""Snapshots that name text features: another id than without, every byte verified, nothing collected that is named."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dualforce_model.captions import caption_digest
from dualforce_model.schema import encode_manifest, load_snapshot, manifest_key, read_manifest
from dualforce_model.shards import pack_shard
from dualforce_model.storage import Storage
from dualforce_model.text_features import pack_text, text_key, text_name
from tasks.accounting import AcrossClips
from tasks.captions import encode_texts
from tasks.extract import ExtractConfig
from tasks.extractors.text import TextConfig
from tasks.leases import LeaseHeld
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.place import Place
from tasks.policy import Policy, load_policy
from tasks.pool import PoolConfig
from tasks.records import Clip, FailureClass, Stage
from tasks.snapshot import SnapshotCandidate, SnapshotError, SplitConfig, build_snapshot, diff_snapshots
from tasks.snapshotting import SnapshotView, candidates
from tasks.stages import StageConfig
from tasks.text_notes import FAILED, REFUSED, Refusal, TextFailure, known_texts, note_key, write_note
from tasks.texts import TextError, remove_damaged
from tasks.upkeep import collect_garbage, verify_snapshot

POLICY = Policy(name="test")
ALL_TRAIN = SplitConfig(validation=0.0)
FINGERPRINT, OTHER = "ab" * 16, "cd" * 16
CAPTIONS = ("a man", "a woman", "a man")  # clips share


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def text(store: Storage, caption: str, fingerprint: str = FINGERPRINT, width: int = 4) -> str:
    tokens = np.random.default_rng(len(caption)).standard_normal((3, width)).astype(np.float32)
    return pack_text(store, fingerprint, caption, tokens)


def offered(store: Storage, texts: tuple[str | None, ...]) -> list[SnapshotCandidate]:
    found = []
    for number, name in enumerate(texts):
        clip = Clip(clip_id=f"c{number}", source="test", video_id=f"v{number}", location="x", caption="not looked at")
        motion = {"motion": np.random.default_rng(number).standard_normal((5, 3)).astype(np.float32)}
        refs = pack_shard(store, "structure", "fp", {clip.clip_id: motion}, {clip.clip_id: f"key{number}"})
        features = {"structure": refs[clip.clip_id]}
        digest = hashlib.sha256(clip.clip_id.encode()).hexdigest()
        found.append(SnapshotCandidate(clip=clip, media_digest=digest, num_frames=5, features=features, text=name))
    return found


def built(store: Storage, texts: tuple[str | None, ...]) -> str:
    return build_snapshot(store, offered(store, texts), POLICY, "set", split=ALL_TRAIN).snapshot.id


def told(store: Storage) -> tuple[str, ...]:
    return tuple(text(store, caption) for caption in CAPTIONS)


def test_a_snapshot_names_texts_and_says_what_they_share(store: Storage) -> None:
    names = told(store)
    snapshot = load_snapshot(store, built(store, names))
    assert tuple(row.text for row in read_manifest(store, snapshot)) == names
    assert names[0] == names[2]
    assert snapshot.text is not None
    assert (snapshot.text.fingerprint, snapshot.text.encoder) == (FINGERPRINT, FINGERPRINT)
    assert snapshot.text.tensors == {"tokens": (512, 4)}
    assert f"text: tokens [512, 4] by {FINGERPRINT}" in SnapshotView(snapshot=snapshot).text()
    assert verify_snapshot(store, snapshot.id).problems == ()


def test_without_text_ids_and_manifests_are_as_they_were(store: Storage) -> None:
    snapshot = load_snapshot(store, built(store, (None, None, None)))
    assert snapshot.id == "5183c428a2e2ccbb"  # of a release that knew no text
    assert snapshot.text is None
    path = store.local_path(manifest_key(snapshot.id))
    assert "text" not in pq.ParquetFile(path).schema_arrow.names
    assert "text" not in read_manifest(store, snapshot)[0].canonical()


def test_captions_and_their_encoder_are_part_of_the_id(store: Storage) -> None:
    names = told(store)
    silent = built(store, (None, None, None))
    ids = [silent, built(store, names), built(store, (names[1], *names[1:]))]
    ids.append(built(store, tuple(text(store, caption, OTHER) for caption in CAPTIONS)))
    assert len(set(ids)) == 4
    assert built(store, names) == ids[1]
    difference = diff_snapshots(store, ids[1], ids[2])
    assert difference.changed == {"c0": ("text",)}
    assert set(diff_snapshots(store, silent, ids[1]).changed.values()) == {("text",)}


def test_texts_that_do_not_go_together_are_refused(store: Storage) -> None:
    names = told(store)
    with pytest.raises(TextError, match="c2 names no text, others do"):
        built(store, (*names[:2], None))
    with pytest.raises(TextError, match="texts of 2 encoders"):
        built(store, (*names[:2], text(store, "a man", OTHER)))
    store.delete(text_key(names[1]))
    with pytest.raises(TextError, match="c1: its caption has no text features, and 0 other captions have none"):
        built(store, names)


def test_building_again_is_the_remedy_for_a_text_that_is_gone(store: Storage) -> None:
    names = told(store)
    snapshot_id = built(store, names)
    store.delete(text_key(names[1]))
    assert [text_key(names[1]) in problem for problem in verify_snapshot(store, snapshot_id).problems] == [True]
    told(store)  # what extract does
    assert built(store, names) == snapshot_id
    assert verify_snapshot(store, snapshot_id).sound


def test_verify_finds_any_flipped_byte_of_a_text(store: Storage) -> None:
    names = told(store)
    snapshot_id = built(store, names)
    data = store.read(text_key(names[0]))
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 16
        store.write(text_key(names[0]), bytes(flipped))
        (problem,) = verify_snapshot(store, snapshot_id).problems
        assert "damaged" in problem
        assert text_key(names[0]) in problem
    store.write(text_key(names[0]), data)
    assert verify_snapshot(store, snapshot_id).sound


def test_gc_keeps_what_a_snapshot_names(store: Storage) -> None:
    names = told(store)
    built(store, names)
    stray = text(store, "nobody is told this")
    assert collect_garbage(store, ()).keys == (), "what is young may be about to be named"
    assert collect_garbage(store, (), older_than_s=-1.0).keys == (text_key(stray),)
    found = collect_garbage(store, (), dry_run=False, older_than_s=-1.0)
    assert found.keys == (text_key(stray),)
    assert sorted(store.list("text")) == sorted({text_key(name) for name in names})


def test_gc_keeps_texts_that_a_next_build_asks_for(store: Storage) -> None:
    built(store, told(store))
    asked, other = text(store, "of a clip that no snapshot has yet"), text(store, "of nobody")
    captions = {caption_digest("of a clip that no snapshot has yet")}
    assert collect_garbage(store, (), captions, dry_run=False, older_than_s=-1.0).keys == (text_key(other),)
    assert text_key(asked) in store.list("text")


def test_gc_keeps_notes_of_captions_that_somebody_may_ask_for(store: Storage) -> None:
    names = told(store)
    built(store, names)
    odd, gone, young = (text_name(FINGERPRINT, caption) for caption in ("odd", "gone", "a prompt, or another ledger's"))
    for name in (odd, gone, young):
        write_note(store, name, Refusal(caption="x", why="y"))
    for name in (names[0], text_name(FINGERPRINT, "broken")):
        write_note(store, name, TextFailure(caption="x", failure=FailureClass.BUG, traceback="t"))
    captions = {caption_digest(caption) for caption in ("odd", "broken")}
    notes = store.list(REFUSED) + store.list(FAILED)
    assert collect_garbage(store, (), (), older_than_s=-1.0).keys == (), "notes have a month"
    for key in notes:
        path = store.local_path(key)
        assert path is not None
        if key != note_key(REFUSED, young):
            os.utime(path, (0, time.time() - 31 * 86_400))
    assert collect_garbage(store, (), captions, older_than_s=-1.0).keys == (note_key(REFUSED, gone),)
    assert collect_garbage(store, (), captions, dry_run=False, older_than_s=-1.0).keys == (note_key(REFUSED, gone),)
    assert store.list(REFUSED) + store.list(FAILED) == [key for key in notes if key != note_key(REFUSED, gone)]


def test_damaged_texts_are_removed_and_others_stay(store: Storage) -> None:
    man, woman, _ = told(store)
    store.write(text_key(man), store.read(text_key(man))[:-1] + b"x")
    found = dict[str, str]()
    gone = text_name(FINGERPRINT, "gone")
    assert remove_damaged(store, {man, woman, gone}, found.__setitem__) == {man}
    assert found == {man: "lost", woman: "sound", gone: "missing"}
    assert store.list("text") == [text_key(woman)]


def test_a_manifest_with_text_comes_back(store: Storage) -> None:
    snapshot = load_snapshot(store, built(store, told(store)))
    rows = read_manifest(store, snapshot)
    assert hashlib.sha256(encode_manifest(rows)).hexdigest() == snapshot.manifest_digest


def test_a_clip_without_features_is_refused_all_the_same(store: Storage) -> None:
    lone = offered(store, told(store))[0].model_copy(update={"features": {}})
    with pytest.raises(SnapshotError, match="no features"):
        build_snapshot(store, [lone], POLICY, "set")


# ----------------------------------------------------------------------------------------------------- from a ledger


def crop(clip_id: str, people: int = 1) -> Row:
    value = {
        "path": f"{clip_id}.mp4",
        "digest": "d" * 64,
        "num_frames": 5,
        "scores": {"people": {"method": "m", "value": people}},
    }
    return Row(clip_id=clip_id, stage=Stage.CURATE, state="done", key="k", value=value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Four clips with crops, one of them of two people; two captions and one clip without."""
    (tmp_path / "alone.yaml").write_text("name: alone\ndrop: {people: {at_most: 1, when_not_measured: drop}}\n")
    found = Place(dataset="mine", home=str(tmp_path))
    told_of = {"a": "a man", "b": "a man", "c": None, "d": "two people"}
    with Ledger(found.ledger_url) as ledger:
        clips = [
            Clip(clip_id=name, source="s", video_id=name, location=name, caption=caption)
            for name, caption in told_of.items()
        ]
        ledger.add_clips("mine", clips)
        with ledger.lease("mine", Stage.ACQUIRE, "r") as lease:
            value = {"digest": "m"}
            ledger.record(
                lease, [Row(clip_id=name, stage=Stage.ACQUIRE, state="done", key="k", value=value) for name in told_of]
            )
        with ledger.lease("mine", Stage.CURATE, "r") as lease:
            ledger.record(lease, [crop(name, 2 if name == "d" else 1) for name in told_of])
    return found


def test_captions_of_clips_that_pass_are_encoded_once_and_candidates_name_them(
    place: Place, tiny_umt5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = {"name": "umt5", "config": {"weights": str(tiny_umt5), "precision": "fp32"}}
    config = ExtractConfig(text=TextConfig(encoder=choice, prompt="a person is talking"))
    assert config.text is not None
    policy = str(Path(place.home) / "alone.yaml")
    pool, stage = PoolConfig(engine="local", workers=1), StageConfig(attempts=1)
    summary = encode_texts(place, policy, config, pool, stage, run_id="first")
    assert (summary.distinct, summary.made) == (2, 2)  # a man, and the prompt; what is dropped is not encoded
    with Ledger(place.ledger_url) as ledger, ledger.lease("mine", Stage.EXTRACT, "other"):
        with pytest.raises(LeaseHeld, match=r"extract of mine is held by process .* run other"):
            encode_texts(place, policy, config, pool, stage, run_id="second")
    assert encode_texts(place, policy, config, pool, stage, run_id="third").made == 0
    store = Storage(place.store_url)
    with Ledger(place.ledger_url) as ledger:
        across = AcrossClips(ledger, "mine", load_policy(policy))
        texts = known_texts(place, config)
        named = {each.clip.clip_id: each.text for each in candidates(ledger, "mine", config, across, texts)}
        offered = candidates(ledger, "mine", config, across, texts, failed={"a"})
        assert [each.clip.clip_id for each in offered] == ["b", "c", "d"]
        silent = [each.text for each in candidates(ledger, "mine", ExtractConfig(), across)]
    assert silent == [None] * 4
    assert named["a"] == named["b"] != named["c"]
    assert {text_key(str(named[name])) for name in "abc"} == set(store.list("text"))
    assert text_key(str(named["d"])) not in store.list("text")


def test_text_is_no_modality_of_clips() -> None:
    with pytest.raises(ValueError, match=r"set extract\.text"):
        ExtractConfig(modalities=("video", "text"))
