"""The pipeline: lengths, batches, streams, round trips, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest

from dualforce_model.checkpoint import CheckpointError
from dualforce_model.encoders import make_encoder
from dualforce_model.pipeline import DualForcePipeline, GenerationInputError
from dualforce_model.train import train
from dualforce_model.train_config import TrainConfig
from dualforce_model.train_state import StopSignal
from tests.unit.dualforce_model.encoders.tiny import save_wan_vae

SIDE_PX = 32


@pytest.fixture(scope="module")
def checkpoint(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    state = train(config.model_copy(update={"steps": 2}), folder, StopSignal())
    return folder / str(state.checkpoint)


@pytest.fixture(scope="module")
def pipe(checkpoint: Path) -> DualForcePipeline:
    return DualForcePipeline.from_pretrained(checkpoint)


def picture(number: int = 0) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


def sound(frames: float, number: int = 0) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(int(640 * frames)).astype(np.float32) * 0.1


@pytest.mark.parametrize(("frames", "expected"), [(1, 1), (13, 13), (14.2, 15), (16, 16), (0.01, 1)])
def test_a_clip_is_as_long_as_its_sound(pipe: DualForcePipeline, frames: float, expected: int) -> None:
    made = pipe(picture(), sound(frames), num_inference_steps=1)
    assert made.dtype == np.uint8
    assert made.shape == (expected, SIDE_PX, SIDE_PX, 3)


def test_the_first_frame_is_the_picture_as_the_codec_keeps_it(pipe: DualForcePipeline) -> None:
    made = pipe(picture(), sound(5), num_inference_steps=1)
    kept = pipe.codec.decode(pipe.codec.encode_image(picture())[None])[0]
    assert np.abs(made[0].astype(int) - kept.astype(int)).max() <= 1


def test_a_batch_gives_what_its_clips_give_alone(pipe: DualForcePipeline) -> None:
    images, sounds = [picture(1), picture(2)], [sound(9, 1), sound(17, 2)]
    together = pipe(images, sounds, seed=[3, 8])
    for image, audio, seed, made in zip(images, sounds, (3, 8), together, strict=True):
        alone = pipe(image, audio, seed=seed)
        assert made.shape == alone.shape
        assert np.abs(made.astype(int) - alone.astype(int)).max() <= 1


def test_a_stream_equals_the_whole(pipe: DualForcePipeline) -> None:
    chunks = list(pipe.stream(picture(), sound(15), seed=4, chunk_steps=2))
    assert [len(chunk) for chunk in chunks] == [1, 8, 6]
    assert np.array_equal(np.concatenate(chunks), pipe(picture(), sound(15), seed=4, chunk_steps=2))


def test_a_codec_that_remembers_streams_as_it_decodes_the_whole(checkpoint: Path, tmp_path: Path) -> None:
    """The Wan VAE: a chunk decoded without what came before would be another. Its weights follow the model."""
    pipe = DualForcePipeline.from_pretrained(checkpoint)
    pipe.codec = make_encoder("wan_vae", {"weights": save_wan_vae(tmp_path)})
    made = pipe([picture(1), picture(2)], [sound(13, 1), sound(13, 2)], seed=4, chunk_steps=2)
    for number, whole in enumerate(made):
        chunks = list(pipe.stream(picture(number + 1), sound(13, number + 1), seed=4 + number, chunk_steps=2))
        assert [len(chunk) for chunk in chunks] == [1, 8, 4]
        assert np.abs(np.concatenate(chunks).astype(int) - whole).max() <= 1
    assert pipe.codec.device == str(pipe.model.device)


def test_the_seed_and_the_sound_matter(pipe: DualForcePipeline) -> None:
    made = pipe(picture(), sound(9), seed=1)
    assert np.array_equal(made, pipe(picture(), sound(9), seed=1))
    assert not np.array_equal(made, pipe(picture(), sound(9), seed=2))


def test_saved_and_loaded_is_the_same_pipeline(pipe: DualForcePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "copy")
    again = DualForcePipeline.from_pretrained(tmp_path / "copy")
    assert np.array_equal(pipe(picture(), sound(9)), again(picture(), sound(9)))


def test_averaged_weights_are_used(checkpoint: Path, pipe: DualForcePipeline) -> None:
    raw = pipe.model.from_pretrained(checkpoint / "model")
    differing = [name for name, p in pipe.model.named_parameters() if not p.equal(raw.get_parameter(name))]
    assert differing


@pytest.mark.parametrize(
    ("image", "audio", "complaint"),
    [
        (np.zeros((32, 32), np.uint8), sound(5), "expected uint8"),
        (np.zeros((32, 32, 3), np.float32), sound(5), "expected uint8"),
        (np.zeros((32, 40, 3), np.uint8), sound(5), "crop the face to a square"),
        (picture(), np.zeros(0, np.float32), "row of samples"),
        (picture(), np.zeros((2, 640), np.float32), "row of samples"),
    ],
)
def test_unusable_input_is_refused(
    pipe: DualForcePipeline, image: np.ndarray, audio: np.ndarray, complaint: str
) -> None:
    with pytest.raises(GenerationInputError, match=complaint):
        pipe(image, audio)


def test_lists_must_match(pipe: DualForcePipeline) -> None:
    with pytest.raises(GenerationInputError, match="2 pictures, 1 sounds"):
        pipe([picture(), picture()], [sound(5)])
    with pytest.raises(GenerationInputError, match="bring them to one size"):
        pipe([picture(), picture()[:24, :24]], [sound(5), sound(5)])


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no pipeline\.json"):
        DualForcePipeline.from_pretrained(tmp_path)


def test_a_checkpoint_knows_the_crops_it_was_trained_on(pipe: DualForcePipeline) -> None:
    assert (pipe.record.size.crop_px, pipe.record.size.latent_px) == (SIDE_PX, SIDE_PX // 8)
    small = picture()[:16, :16]
    with pytest.raises(GenerationInputError, match="16 pixels: the model was trained on crops of 32"):
        pipe(small, sound(5))
    with pytest.raises(GenerationInputError, match="trained on crops of 32"):
        next(pipe.stream(small, sound(5)))
    assert pipe(small, sound(5), num_inference_steps=1, other_size=True).shape == (5, 16, 16, 3)


def test_a_record_of_before_sizes_were_kept_is_refused(pipe: DualForcePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "pipeline.json").read_text())
    del record["format"], record["size"]
    (tmp_path / "pipeline.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"record of format 1, this version reads 2 .*train again"):
        DualForcePipeline.from_pretrained(tmp_path)
