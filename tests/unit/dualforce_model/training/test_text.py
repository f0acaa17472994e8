"""Text all the way: captions through a text encoder into the store, a snapshot, training, and what a pipeline draws."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.captions import TEXT_TOKENS
from dualforce_model.checkpoint import checkpoint_path
from dualforce_model.config import ConfigError
from dualforce_model.data import SnapshotDataset
from dualforce_model.diffusion.window import SampleKey
from dualforce_model.encoders import EncoderChoice, make_encoder
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.objective import told
from dualforce_model.pipeline import DualForcePipeline
from dualforce_model.prompting import TextInputError
from dualforce_model.schema import encode_head, encode_manifest, head_key, load_snapshot, manifest_key, read_manifest
from dualforce_model.storage import Storage
from dualforce_model.text_features import DamagedTextError, pack_text, pad_text, read_text, text_key
from dualforce_model.train import train
from dualforce_model.train_config import TrainConfig
from dualforce_model.train_state import StopSignal
from dualforce_model.trainer import Trainer, run_digest
from tasks.snapshot import canonical_id
from tasks.texts import shared_text

SIDE_PX, WIDTH = 32, 32  # of the pictures and of the text
CAPTIONS = ("a man is talking", "a woman", "a person is smiling to the camera")
KEYS = [SampleKey(0, index) for index in range(40)]


@pytest.fixture(scope="module")
def choice(tiny_umt5: Path) -> EncoderChoice:
    return EncoderChoice(name="umt5", config={"weights": str(tiny_umt5), "precision": "fp32"})


@pytest.fixture(scope="module")
def text_config(config: TrainConfig, choice: EncoderChoice, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The snapshot of all such tests, with captions; and a model that takes text, whatever its width."""
    store = Storage(str(tmp_path_factory.mktemp("text") / "store"))
    shutil.copytree(config.store_url, store.url())
    encoder = make_encoder(choice.name, choice.config)
    encoder.load()
    for caption, tokens in zip(CAPTIONS, encoder(CAPTIONS), strict=True):
        pack_text(store, encoder.fingerprint(), caption, tokens)
    snapshot = load_snapshot(store, config.snapshot_id)
    names = sorted(key.removeprefix("text/").removesuffix(".safetensors") for key in store.list("text"))
    rows = tuple(
        row.model_copy(update={"text": names[number % len(names)]})
        for number, row in enumerate(read_manifest(store, snapshot))
    )
    manifest = encode_manifest(rows)
    changed = {
        "id": canonical_id(rows, snapshot.policy),
        "text": shared_text(store, rows),
        "manifest_digest": hashlib.sha256(manifest).hexdigest(),
    }
    head = snapshot.model_copy(update=changed)
    store.write(manifest_key(head.id), manifest)
    store.write(head_key(head.id), encode_head(head))
    model = config.model.model_copy(
        update={
            name: tower.model_copy(update={"text_dim": 8})
            for name, tower in (("video", config.model.video), ("structure", config.model.structure))
            if tower is not None
        }
    )
    encoders = config.encoders.model_copy(update={"text": choice})
    known = {"store_url": store.url(), "snapshot_id": head.id, "model": model, "encoders": encoders}
    return config.model_copy(update=known)


def trainer_of(config: TrainConfig, folder: Path) -> Trainer:
    return Trainer(config, folder, Accelerator(cpu=True))


def windows(trainer: Trainer, count: int) -> TalkingHeadBatch:
    return TalkingHeadBatch.stack([trainer.dataset[0, index] for index in range(count)])


def moved(model: DualForce) -> None:
    """Gates and heads start at zero: give everything something to say."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    return config.model_copy(update=values)


# ----------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_window_tells_its_clip_s_text(text_config: TrainConfig, in_memory: bool) -> None:
    store = Storage(text_config.store_url)
    data = SnapshotDataset(text_config.store_url, text_config.snapshot_id, 5, in_memory=in_memory)
    assert "text" in data.modalities
    for row in data.rows:
        text = data.window(row, 1, 0)["text"]
        assert (text.shape, text.dtype) == ((TEXT_TOKENS, WIDTH), np.float16)
        assert row.text is not None
        assert np.array_equal(text, pad_text(read_text(store, row.text)))


def test_a_batch_is_of_texts_side_by_side(text_config: TrainConfig) -> None:
    data = SnapshotDataset(text_config.store_url, text_config.snapshot_id, 5)
    batch = TalkingHeadBatch.stack([data[0, 0], data[0, 1]])
    assert batch.text is not None
    assert batch.text.shape == (2, TEXT_TOKENS, WIDTH)
    assert batch.to("cpu").text is not None
    with pytest.raises(ValueError, match="text has the shape"):
        TalkingHeadBatch(**{**vars(batch), "text": batch.text[:, 0]})
    with pytest.raises(ValueError, match="number of clips"):
        TalkingHeadBatch(**{**vars(batch), "text": batch.text[:1]})


def test_snapshots_without_text_offer_none(config: TrainConfig) -> None:
    data = SnapshotDataset(config.store_url, config.snapshot_id, 5)
    assert "text" not in data.modalities
    assert "text" not in data[0, 0]


def test_a_flipped_byte_stops_whoever_reads_it(text_config: TrainConfig, tmp_path: Path) -> None:
    store = Storage(str(tmp_path / "store"))
    shutil.copytree(text_config.store_url, store.url())
    data = SnapshotDataset(store.url(), text_config.snapshot_id, 5)
    key = text_key(str(data.rows[0].text))
    content = bytearray(store.read(key))
    content[-3] ^= 4
    store.write(key, bytes(content))
    with pytest.raises(DamagedTextError, match="damaged"):
        data.window(data.rows[0], 1, 0)
    with pytest.raises(DamagedTextError, match="damaged"):
        SnapshotDataset(store.url(), text_config.snapshot_id, 5, in_memory=True)


# ------------------------------------------------------------------------------------------------------- training


def test_the_text_that_is_dropped_is_drawn_by_window(text_config: TrainConfig, tmp_path: Path) -> None:
    trainer = trainer_of(changed(text_config, text_dropout=0.4), tmp_path)
    batch = TalkingHeadBatch.stack([trainer.dataset[0, index % 5] for index in range(40)])
    first = told(batch, KEYS, trainer.config)
    again = told(batch, KEYS, trainer.config)
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    assert batch.text is not None
    silent = (first == 0).all(2).all(1)
    assert 8 <= int(silent.sum()) <= 24
    assert torch.equal(first[~silent], batch.text[~silent])
    never = told(batch, KEYS, changed(text_config, text_dropout=0.0))
    assert never is not None
    assert torch.equal(never, batch.text)


def test_two_steps_teach_every_weight_that_reads_text(text_config: TrainConfig, tmp_path: Path) -> None:
    config = changed(text_config, steps=2, text_dropout=0.0)
    assert train(config, tmp_path, StopSignal()).step == 2
    trainer = trainer_of(config, tmp_path)  # as it goes on
    model = trainer.objective.model
    assert (model.settings.video.text_dim, model.settings.structure.text_dim) == (WIDTH, WIDTH)
    trainer.objective(windows(trainer, 4), KEYS[:4], 0.0).losses.total.backward()
    reading = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if "text_embedder" in name or ".attn2.to_k" in name
    }
    assert len(reading) == 2 * (4 + 2 * 2)
    weights = {name: gradient for name, gradient in reading.items() if name.endswith("weight")}
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in weights.values())


def test_dropped_text_is_as_good_as_none(text_config: TrainConfig, tmp_path: Path) -> None:
    trainer = trainer_of(changed(text_config, text_dropout=0.0), tmp_path / "a")
    batch = windows(trainer, 4)
    assert batch.text is not None
    silent = TalkingHeadBatch(**{**vars(batch), "text": torch.zeros_like(batch.text)})
    nothing = TalkingHeadBatch(**{**vars(batch), "text": None})
    moved(trainer.objective.model)
    with torch.no_grad():
        losses = [float(trainer.objective(each, KEYS[:4], 0.0).losses.total) for each in (silent, nothing, batch)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-5)


def test_a_run_with_text_resumes_bit_for_bit(text_config: TrainConfig, tmp_path: Path) -> None:
    config = changed(text_config, steps=4, text_dropout=0.4)
    train(config, tmp_path / "whole", StopSignal())
    train(config, tmp_path / "cut", StopSignal())
    shutil.rmtree(checkpoint_path(tmp_path / "cut", 4))
    train(config, tmp_path / "cut", StopSignal())
    name = "model/diffusion_pytorch_model.safetensors"
    one, other = (checkpoint_path(tmp_path / run, 4) / name for run in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()


def test_a_model_that_takes_no_text_is_given_none(
    config: TrainConfig, text_config: TrainConfig, tmp_path: Path
) -> None:
    deaf = changed(text_config, model=config.model)
    trainer = trainer_of(deaf, tmp_path)
    assert "text" not in trainer.dataset.modalities
    assert trainer._records()["pipeline"].text is False


@pytest.mark.parametrize("listens", ["video", "structure"])
def test_one_tower_may_take_text_alone(text_config: TrainConfig, tmp_path: Path, listens: str) -> None:
    model: ModelConfig = text_config.model
    for name in {"video", "structure"} - {listens}:
        model = model.model_copy(update={name: getattr(model, name).model_copy(update={"text_dim": 0})})
    assert train(changed(text_config, model=model, steps=1), tmp_path, StopSignal()).step == 1


def test_a_model_that_takes_text_learns_without_from_a_snapshot_that_has_none(
    config: TrainConfig, text_config: TrainConfig, tmp_path: Path
) -> None:
    untold = changed(config, model=text_config.model, steps=1)
    assert train(untold, tmp_path, StopSignal()).step == 1
    assert DualForcePipeline.from_pretrained(checkpoint_path(tmp_path, 1)).record.text is False


def test_another_encoder_than_the_snapshot_s_is_refused(
    text_config: TrainConfig, choice: EncoderChoice, tmp_path: Path
) -> None:
    other = EncoderChoice(name="umt5", config={**choice.config, "max_tokens": 7})
    config = changed(text_config, encoders=text_config.encoders.model_copy(update={"text": other}))
    with pytest.raises(ConfigError, match=r"encoders\.text: umt5 .* did not make the text of snapshot"):
        trainer_of(config, tmp_path)


def test_runs_from_before_there_was_text_keep_their_identity(config: TrainConfig, text_config: TrainConfig) -> None:
    assert "text_dropout" not in config.identity()
    assert "text" not in config.identity()["encoders"]
    assert run_digest(changed(config, text_dropout=0.2)) != run_digest(config)
    assert "text" in text_config.identity()["encoders"]


# ------------------------------------------------------------------------------------------------------- pipelines


@pytest.fixture(scope="module")
def trained(text_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that reads text, and whose weights have something to say."""
    folder = tmp_path_factory.mktemp("run")
    train(changed(text_config, steps=1), folder, StopSignal())
    pipeline = DualForcePipeline.from_pretrained(checkpoint_path(folder, 1))
    moved(pipeline.model)
    pipeline.save_pretrained(folder / "moved")
    return folder / "moved"


def drawn(pipeline: DualForcePipeline, **options: Any) -> np.ndarray:
    draw = np.random.default_rng(3)
    picture = draw.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    frames: np.ndarray = pipeline(picture, draw.standard_normal(16_000 // 5).astype(np.float32) * 0.1, **options)
    return frames


def test_words_are_what_their_tokens_are_and_change_the_picture(trained: Path, choice: EncoderChoice) -> None:
    pipeline = DualForcePipeline.from_pretrained(trained)
    encoder = make_encoder(choice.name, choice.config)
    encoder.load()
    said = drawn(pipeline, text=CAPTIONS[0])
    assert np.array_equal(said, drawn(pipeline, text=encoder(CAPTIONS[:1])[0]))
    assert not np.array_equal(said, drawn(pipeline, text=CAPTIONS[2]))
    assert not np.array_equal(said, drawn(pipeline, without_text=True))
    assert np.array_equal(drawn(pipeline, without_text=True), drawn(pipeline, text=np.zeros((3, WIDTH), np.float32)))


def test_a_stream_is_told_the_same(trained: Path) -> None:
    pipeline = DualForcePipeline.from_pretrained(trained)
    draw = np.random.default_rng(3)
    picture = draw.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    sound = draw.standard_normal(16_000 // 5).astype(np.float32) * 0.1
    streamed = np.concatenate(list(pipeline.stream(picture, sound, text=CAPTIONS[0])))
    assert np.array_equal(streamed, drawn(pipeline, text=CAPTIONS[0]))


def test_texts_of_several_clips_and_with_guidance(trained: Path) -> None:
    pipeline = DualForcePipeline.from_pretrained(trained)
    draw = np.random.default_rng(3)
    picture = draw.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    sound = draw.standard_normal(16_000 // 5).astype(np.float32) * 0.1
    two = pipeline([picture] * 2, [sound] * 2, [0, 0], text=[CAPTIONS[0], CAPTIONS[2]], guidance=2.0)
    assert not np.array_equal(two[0], two[1])
    alike = pipeline([picture] * 2, [sound] * 2, [0, 0], text=CAPTIONS[0], guidance=2.0)
    assert np.array_equal(alike[0], alike[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "was trained with text and none was given"),
        ({"text": "a", "without_text": True}, "together with without_text"),
        ({"text": ["a", "b"]}, "2 texts for 1 clips"),
        ({"text": np.zeros((3, 5), np.float32)}, r"text tokens \[3, 5\]: expected 1 to 512 rows of 32"),
        ({"text": np.zeros((0, WIDTH), np.float32)}, "expected 1 to 512 rows"),
        ({"text": np.zeros((3, WIDTH), np.int64)}, "finite floating-point numbers"),
        ({"text": np.full((3, WIDTH), np.nan, np.float32)}, "finite floating-point numbers"),
        ({"text": np.full((3, WIDTH), -7e4, np.float32)}, "finite floating-point numbers up to 65504"),
    ],
)
def test_texts_that_cannot_be_used(trained: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(TextInputError, match=said):
        drawn(DualForcePipeline.from_pretrained(trained), **options)


def test_words_need_an_encoder(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "mute")
    record = json.loads((tmp_path / "mute" / "pipeline.json").read_text())
    record["encoders"]["text"] = None
    (tmp_path / "mute" / "pipeline.json").write_text(json.dumps(record))
    with pytest.raises(TextInputError, match=r"names no encoder of them \(encoders\.text\): give tokens"):
        drawn(DualForcePipeline.from_pretrained(tmp_path / "mute"), text="a")


def test_a_model_that_takes_none_refuses_text(config: TrainConfig, tmp_path: Path) -> None:
    train(changed(config, steps=1), tmp_path, StopSignal())
    pipeline = DualForcePipeline.from_pretrained(checkpoint_path(tmp_path, 1))
    with pytest.raises(TextInputError, match="the model takes none"):
        drawn(pipeline, text="a")
