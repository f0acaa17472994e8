"""What is asked for is made once, named once, and refused in words where it cannot be made."""

from pathlib import Path

import numpy as np
import pytest

from dualforce_model.checkpoint import CheckpointError
from dualforce_model.diffusion.prediction import Spread
from dualforce_model.diffusion.sampler import SamplerConfig
from dualforce_model.errors import InputError
from dualforce_model.media import write_image, write_video, write_wav
from dualforce_model.storage import file_digest, write_json
from dualforce_model.train_config import Diffusion, Encoders, PictureSize, PipelineRecord
from tasks.curation import CurateConfig
from tasks.generation import (
    MANIFEST,
    GenerateConfig,
    Generated,
    GeneratedItem,
    GenerateItem,
    crop_for,
    generate,
    item_key,
    read_generated,
    reference_picture,
)
from tasks.synthetic.animate import render_clip


def item(folder: Path, name: str = "a", **more: object) -> GenerateItem:
    write_wav(folder / "s.wav", np.zeros(16_000, np.float32))
    values = {"name": name, "reference": str(folder / "face.png"), "sound": str(folder / "s.wav"), **more}
    return GenerateItem.model_validate(values)


@pytest.fixture
def face(tmp_path: Path) -> Path:
    frames = render_clip("astronaut", np.zeros(6400, np.float32), 1).frames
    write_image(tmp_path / "face.png", frames[0])
    write_video(tmp_path / "face.mp4", frames, None)
    return tmp_path


def test_a_reference_is_cropped_as_training_clips_are(face: Path) -> None:
    crop = CurateConfig(crop_px=96)
    picture = reference_picture(item(face), crop)
    assert picture.shape == (96, 96, 3)
    from_video = reference_picture(item(face, reference=str(face / "face.mp4")), crop)
    alike = np.corrcoef(picture.ravel(), from_video.ravel())[0, 1]
    assert alike > 0.9, "the first frame of a video is the same reference, up to its compression"
    assert reference_picture(item(face, cropped=True), crop).shape == (320, 320, 3)


def test_a_picture_without_a_face_is_named(face: Path) -> None:
    write_image(face / "face.png", np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(InputError, match=r"face\.png: no face was found"):
        reference_picture(item(face), CurateConfig())


def test_the_key_covers_inputs_and_settings_but_not_how_they_are_batched(face: Path) -> None:
    key = item_key(item(face), "checkpoint", GenerateConfig())
    assert key == item_key(item(face), "checkpoint", GenerateConfig(batch=1, threads=2))
    assert key != item_key(item(face), "other", GenerateConfig())
    assert key != item_key(item(face), "checkpoint", GenerateConfig(seed=1))
    write_wav(face / "s.wav", np.full(16_000, 0.1, np.float32))
    changed = GenerateItem(name="a", reference=str(face / "face.png"), sound=str(face / "s.wav"))
    assert key != item_key(changed, "checkpoint", GenerateConfig())


def test_two_videos_of_one_name_are_refused_before_anything_is_loaded(face: Path) -> None:
    with pytest.raises(InputError, match="names must differ"):
        generate(face / "nowhere", [item(face), item(face)], face / "out", GenerateConfig())


RECORD = PipelineRecord(
    format=2,
    encoders=Encoders(),
    diffusion=Diffusion(),
    sampler=SamplerConfig(),
    size=PictureSize(crop_px=96, latent_px=12),
    spread=Spread(video=(1.0,), structure=(1.0,)),
    statistics={},
    snapshot_id="s",
)


def test_references_are_cropped_at_the_size_that_was_trained_on() -> None:
    assert crop_for(RECORD, GenerateConfig()).crop_px == 96
    other = CurateConfig(crop_px=128)
    with pytest.raises(InputError, match="crops of 128 px: the checkpoint was trained on 96 px"):
        crop_for(RECORD, GenerateConfig(crop=other))
    assert crop_for(RECORD, GenerateConfig(crop=other, other_size=True)) == other


@pytest.fixture
def finished(face: Path) -> GeneratedItem:
    """A video that the folder `out` holds, of a checkpoint that is too broken to make another."""
    (face / "checkpoint").mkdir()
    (face / "checkpoint" / "state.json").write_text("{}")
    path = face / "out" / "a.mp4"
    path.parent.mkdir()
    path.write_bytes(b"a video")
    identity = file_digest(face / "checkpoint" / "state.json")
    key = item_key(item(face), identity, GenerateConfig())
    made = GeneratedItem(name="a", key=key, path="a.mp4", digest=file_digest(path), num_frames=25)
    write_json(path.parent / MANIFEST, Generated(checkpoint=identity, items=(made,)).model_dump(mode="json"))
    return made


def test_a_finished_video_is_not_made_again(face: Path, finished: GeneratedItem) -> None:
    generated, made = generate(face / "checkpoint", [item(face)], face / "out", GenerateConfig())
    assert (generated.items, made) == ((finished,), 0)


def test_a_file_that_a_killed_run_left_under_the_name_is_not_passed_off(face: Path, finished: GeneratedItem) -> None:
    (face / "out" / finished.path).write_bytes(b"by another checkpoint, killed before its manifest")
    with pytest.raises(CheckpointError):  # it is to be made again
        generate(face / "checkpoint", [item(face)], face / "out", GenerateConfig())


def test_a_manifest_without_digests_vouches_for_no_file(face: Path, finished: GeneratedItem) -> None:
    old = Generated(checkpoint="", items=(finished,)).model_dump(mode="json")
    del old["items"][0]["digest"]
    write_json(face / "out" / MANIFEST, old)
    with pytest.raises(CheckpointError):
        generate(face / "checkpoint", [item(face)], face / "out", GenerateConfig())


@pytest.mark.parametrize("name", ["../x", "-rf", "a/b", "", "x" * 100])
def test_names_stay_in_the_folder(face: Path, name: str) -> None:
    with pytest.raises(ValueError):
        item(face, name)


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert read_generated(tmp_path).items == ()
