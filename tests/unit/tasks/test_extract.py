"""The extract worker: one decode, parts that survive a kill, keys that must agree."""

import errno
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dualforce_model import media, storage
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.schema import Feature, check_feature, check_shapes
from tasks.extract import BEGUN, ExtractConfig, ExtractJob, ExtractWorker, load_part, wanted_features
from tasks.extractors import CropMedia, Structure, StructureConfig
from tasks.records import FailureClass, Reason, Temporary
from tasks.worker import ShortOfMemory

FRAMES = 21


@pytest.fixture
def crop(tmp_path: Path) -> Path:
    """A media folder with one crop in it: media/crops/a.mp4."""
    rng = np.random.default_rng(0)
    base = rng.integers(60, 200, (1, 4, 4, 3)).repeat(16, axis=1).repeat(16, axis=2)
    frames = np.clip(base + 3 * np.arange(FRAMES)[:, None, None, None], 0, 255).astype(np.uint8)
    sound = 0.2 * np.sin(np.arange(640 * FRAMES) / 9).astype(np.float32)
    media.write_video(tmp_path / "media/crops/a.mp4", frames, sound)
    return tmp_path / "media/crops/a.mp4"


def _job(crop: Path, config: ExtractConfig, only: tuple[str, ...] = (), num_frames: int = FRAMES) -> ExtractJob:
    crop_digest = storage.file_digest(crop)
    wanted = {name: key for name, (key, _) in wanted_features(config, crop_digest).items() if not only or name in only}
    return ExtractJob(
        job_id="clip-1",
        crop_path="crops/a.mp4",
        crop_digest=crop_digest,
        num_frames=num_frames,
        wanted=wanted,
    )


def _worker(tmp_path: Path, config: ExtractConfig | None = None) -> ExtractWorker:
    worker = ExtractWorker(config or ExtractConfig(), tmp_path / "media", tmp_path / "parts")
    worker.load()
    return worker


def test_all_modalities_of_a_crop(tmp_path: Path, crop: Path) -> None:
    job = _job(crop, ExtractConfig())
    value = _worker(tmp_path)(job)
    assert set(value) == {"video", "structure", "audio"}
    for modality, part in value.items():
        assert part["key"] == job.wanted[modality]  # type: ignore[index]
        feature = load_part(tmp_path / "parts" / part["part"])
        check_feature(modality, "clip-1", feature)
        check_shapes(modality, "clip-1", FRAMES, {name: array.shape for name, array in feature.items()})


def test_parts_hold_what_the_extractors_made(tmp_path: Path, crop: Path) -> None:
    """Arrays that are views in another order of axes must not be written as they lie in memory."""
    worker = _worker(tmp_path)
    value = worker(_job(crop, ExtractConfig()))
    frames = np.stack(list(media.read_frames(crop)))
    media_of_crop = CropMedia(frames, media.read_sound(crop, 0.0, FRAMES / 25))
    for modality, extractor in worker.extractors.items():
        stored = load_part(tmp_path / "parts" / value[modality]["part"])
        for name, array in extractor(media_of_crop).items():
            np.testing.assert_array_equal(stored[name], array, err_msg=f"{modality} {name}")
    latents = load_part(tmp_path / "parts" / value["video"]["part"])
    np.testing.assert_array_equal(latents["references"][0], latents["latents"][0])


def test_finished_parts_are_reused_and_a_torn_one_is_made_again(
    tmp_path: Path, crop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(crop, ExtractConfig())
    worker = _worker(tmp_path)
    value = worker(job)
    paths = {modality: tmp_path / "parts" / part["part"] for modality, part in value.items()}
    before = {modality: path.read_bytes() for modality, path in paths.items()}
    crop.rename(crop.with_suffix(".away"))
    assert worker(job) == value, "nothing was missing, so nothing was decoded"
    crop.with_suffix(".away").rename(crop)
    paths["structure"].write_bytes(before["structure"][:50])
    paths["audio"].unlink()
    assert worker(job) == value
    assert {modality: path.read_bytes() for modality, path in paths.items()} == before
    assert not [path for path in (tmp_path / "parts").rglob("*") if storage.is_temporary(path.name)]


def test_a_crop_is_decoded_once(tmp_path: Path, crop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    read_frames = media.read_frames

    def counting(path: Path, **options: int) -> object:
        decoded.append(path)
        return read_frames(path, **options)

    monkeypatch.setattr(media, "read_frames", counting)
    _worker(tmp_path)(_job(crop, ExtractConfig()))
    assert len(decoded) == 1


def test_sound_alone_decodes_no_picture_and_pictures_alone_no_sound(
    tmp_path: Path, crop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changing one extractor costs what that extractor costs."""
    worker, whole = _worker(tmp_path), _worker(tmp_path / "whole")
    whole.media_root = worker.media_root
    found = whole(_job(crop, ExtractConfig()))
    with monkeypatch.context() as patched:
        patched.setattr(media, "read_frames", None)
        audio = worker(_job(crop, ExtractConfig(), ("audio",)))
    with monkeypatch.context() as patched:
        patched.setattr(media, "read_sound", None)
        assert set(worker(_job(crop, ExtractConfig(), ("structure",)))) == {"structure"}
    part = audio["audio"]["part"]
    assert part == found["audio"]["part"]
    assert (tmp_path / "parts" / part).read_bytes() == (tmp_path / "whole/parts" / part).read_bytes()


def test_frames_that_curate_did_not_count_are_refused(tmp_path: Path, crop: Path) -> None:
    with pytest.raises(ValueError, match="holds 21 frames, curate recorded 17"):
        _worker(tmp_path)(_job(crop, ExtractConfig(), num_frames=17))


def test_only_what_is_wanted_is_made(tmp_path: Path, crop: Path) -> None:
    assert set(_worker(tmp_path)(_job(crop, ExtractConfig(), ("audio",)))) == {"audio"}
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["audio"]


def test_video_alone_needs_no_sound(tmp_path: Path) -> None:
    path = tmp_path / "media/crops/a.mp4"
    media.write_video(path, np.full((5, 32, 32, 3), 99, np.uint8), None)
    config = ExtractConfig(modalities=("video",))
    assert set(_worker(tmp_path, config)(_job(path, config, num_frames=5))) == {"video"}


def test_without_sound_only_what_needs_sound_is_impossible(tmp_path: Path) -> None:
    path = tmp_path / "media/crops/a.mp4"
    media.write_video(path, np.full((5, 32, 32, 3), 99, np.uint8), None)
    value = _worker(tmp_path)(_job(path, ExtractConfig(), num_frames=5))
    assert value["audio"] == {"reason": Reason.NO_SOUND, "measured": "the crop has no sound stream"}
    for modality in ("video", "structure"):
        check_feature(modality, "clip-1", load_part(tmp_path / "parts" / value[modality]["part"]))
    assert _worker(tmp_path)(_job(path, ExtractConfig(), ("audio",), num_frames=5)) == {"audio": value["audio"]}


def test_pictures_and_what_is_said_of_them_are_the_same_frames() -> None:
    with pytest.raises(ValidationError, match="one picture in all features, make them equal"):
        ExtractConfig.model_validate({"modalities": ["video", "reference"], "video": {"num_references": 3}})
    with pytest.raises(ValidationError, match=r"video\.num_references 4 and structure\.num_references 3"):
        ExtractConfig.model_validate({"structure": {"num_references": 3}})
    ExtractConfig.model_validate({"modalities": ["video"], "video": {"num_references": 3}})


def test_batches_are_no_larger_than_messages() -> None:
    with pytest.raises(ValidationError, match="clips_per_batch 16 is more than clips_per_message 8"):
        ExtractConfig(clips_per_batch=16)


def test_a_part_that_cannot_be_written_is_its_own_clips(
    tmp_path: Path, crop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = storage.write_bytes

    def failing(path: Path, data: bytes) -> None:
        if path.parent.name == "audio":
            raise OSError(errno.EIO, "a bad sector")
        write_bytes(path, data)

    monkeypatch.setattr(storage, "write_bytes", failing)
    value = _worker(tmp_path)(_job(crop, ExtractConfig()))
    assert value["audio"]["failure"] == FailureClass.DISK
    assert {"part", "key"} == set(value["video"])


def test_a_crop_that_changed_is_refused(tmp_path: Path, crop: Path) -> None:
    job = _job(crop, ExtractConfig())
    media.write_video(crop, np.full((5, 32, 32, 3), 99, np.uint8), np.zeros(3200, np.float32))
    with pytest.raises(Temporary, match=r"clip-1: the crop .*crops/a\.mp4 is not the one .*`dualforce rerun` makes it"):
        _worker(tmp_path)(job)
    crop.unlink()
    with pytest.raises(Temporary, match=r"crops/a\.mp4 is gone"):
        _worker(tmp_path)(job)


def test_a_key_of_another_config_is_refused(tmp_path: Path, crop: Path) -> None:
    other = ExtractConfig(
        structure=StructureConfig.model_validate({"encoder": {"name": "face_dct", "config": {"num_eye": 2}}})
    )
    with pytest.raises(ValueError, match="structure is wanted under key"):
        _worker(tmp_path)(_job(crop, other))
    with pytest.raises(ValueError, match="this worker makes only video"):
        _worker(tmp_path, ExtractConfig(modalities=("video",)))(_job(crop, ExtractConfig()))


def test_two_clips_with_equal_crops_have_parts_of_their_own(tmp_path: Path, crop: Path) -> None:
    job = _job(crop, ExtractConfig(), ("audio",))
    worker = _worker(tmp_path)
    first, second = worker(job), worker(job.model_copy(update={"job_id": "clip-2"}))
    assert first["audio"]["part"] != second["audio"]["part"]
    assert first["audio"]["key"] == second["audio"]["key"]


@pytest.mark.parametrize(
    "change",
    [
        {"crop_path": "../a.mp4"},
        {"crop_path": "/a.mp4"},
        {"job_id": "a/b"},
        {"wanted": {"video": "../../x"}},
        {"wanted": {}},
    ],
)
def test_paths_and_names_from_elsewhere_are_refused(crop: Path, change: dict[str, object]) -> None:
    job = _job(crop, ExtractConfig())
    with pytest.raises(ValidationError):
        ExtractJob.model_validate({**job.model_dump(), **change})


def test_a_modality_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="twice"):
        ExtractConfig(modalities=("video", "video"))


class Failing(Structure):
    """A structure that raises what it is told to."""

    error: BaseException = ZeroDivisionError("of all things")

    def __call__(self, crop: CropMedia) -> Feature:
        raise self.error


def _failing(tmp_path: Path, error: BaseException) -> ExtractWorker:
    worker = _worker(tmp_path)
    worker.extractors["structure"] = failing = Failing(StructureConfig())
    failing.error = error
    return worker


def test_a_bug_of_one_extractor_is_its_own(tmp_path: Path, crop: Path) -> None:
    job = _job(crop, ExtractConfig())
    value = _failing(tmp_path, ZeroDivisionError("of all things"))(job)
    assert value["structure"]["failure"] == FailureClass.BUG
    assert "ZeroDivisionError: of all things" in value["structure"]["traceback"]
    for modality in ("video", "audio"):
        check_feature(modality, "clip-1", load_part(tmp_path / "parts" / value[modality]["part"]))
    assert not list((tmp_path / "parts").glob(f"*/*{BEGUN}"))


def test_a_face_that_is_not_seen_is_a_fact_about_one_modality(tmp_path: Path, crop: Path) -> None:
    value = _failing(tmp_path, NoFaceError("a face in 3 of 21 frames"))(_job(crop, ExtractConfig()))
    assert value["structure"] == {"reason": Reason.NO_FACE, "measured": "a face in 3 of 21 frames"}
    assert {"part", "key"} == set(value["video"]) == set(value["audio"])


def test_a_feature_that_breaks_its_contract_is_a_bug_of_its_own(tmp_path: Path, crop: Path) -> None:
    worker = _worker(tmp_path)
    worker.extractors["structure"].__class__ = type(
        "Nan", (Structure,), {"__call__": lambda self, crop: {"motion": np.full((21, 3), np.nan, np.float32)}}
    )
    value = worker(_job(crop, ExtractConfig()))
    assert "holds NaN or infinity" in value["structure"]["traceback"]
    assert "part" in value["audio"]


def test_out_of_memory_asks_for_a_try_alone(tmp_path: Path, crop: Path) -> None:
    (answer,) = _failing(tmp_path, MemoryError("no more")).batch([_job(crop, ExtractConfig())])
    assert isinstance(answer, ShortOfMemory)
    assert answer.value["structure"]["failure"] == FailureClass.OUT_OF_MEMORY
    assert "part" in answer.value["video"]


def test_what_a_worker_died_of_is_made_last_by_the_next(tmp_path: Path, crop: Path) -> None:
    class Death(BaseException):
        """As good as a kill: nothing handles it."""

    with pytest.raises(Death):
        _failing(tmp_path, Death())(_job(crop, ExtractConfig()))
    assert [path.parent.name for path in (tmp_path / "parts").glob(f"*/*{BEGUN}")] == ["structure"]
    parts = tmp_path / "parts"
    assert [path.parent.name for path in parts.glob("*/*.safetensors")] == ["audio"], "video comes after structure"
    with pytest.raises(Death):
        _failing(tmp_path, Death())(_job(crop, ExtractConfig()))
    assert sorted(path.parent.name for path in parts.glob("*/*.safetensors")) == ["audio", "video"]
    assert "part" in _worker(tmp_path)(_job(crop, ExtractConfig()))["structure"]
    assert not list(parts.glob(f"*/*{BEGUN}"))


@pytest.mark.parametrize(("clips_per_batch", "decoded_mb"), [(1, 1), (3, 1), (2, 1024), (8, 1024)])
def test_clips_together_are_what_they_are_alone(
    tmp_path: Path, crop: Path, clips_per_batch: int, decoded_mb: int
) -> None:
    """Whatever is decoded ahead or encoded together; a clip that cannot be read is its own failure."""
    config = ExtractConfig(clips_per_batch=clips_per_batch, decoded_mb=decoded_mb)
    plain = _job(crop, config)
    jobs = [plain.model_copy(update={"job_id": f"clip-{number}"}) for number in range(5)]
    jobs[2] = jobs[2].model_copy(update={"crop_path": "crops/gone.mp4"})
    answers = list(_worker(tmp_path, config).batch(jobs))
    assert isinstance(answers[2], Temporary)
    alone = _worker(tmp_path / "alone", config)
    alone.media_root = tmp_path / "media"
    expected = alone(plain)
    for answer in [each for number, each in enumerate(answers) if number != 2]:
        assert isinstance(answer, dict)
        for modality, entry in answer.items():
            made = (tmp_path / "parts" / entry["part"]).read_bytes()
            assert made == (tmp_path / "alone/parts" / expected[modality]["part"]).read_bytes()
