"""Batches of crops: halved where memory runs out, larger again later, and each crop answered for itself."""

from collections.abc import Sequence

import numpy as np
import pytest

from dualforce_model.batching import GROW_AFTER, BatchSize
from dualforce_model.encoders.base import NoFaceError, or_no_face, sure
from dualforce_model.schema import Feature
from tasks.encoding import encode
from tasks.extractors import Audio, AudioConfig, CropMedia
from tasks.records import FailureClass, Impossible, Reason, Temporary

OOM = type("OutOfMemoryError", (RuntimeError,), {})


def crops(*values: int) -> list[CropMedia]:
    return [CropMedia(np.full((1, 1, 1, 3), value, np.uint8), np.zeros(1, np.float32)) for value in values]


class Plain(Audio):
    """Gives back the first pixel; 99 fails, 98 has no face, 97 is impossible, 96 finds the disk full."""

    def __init__(self) -> None:
        super().__init__(AudioConfig())
        self.calls: list[int] = []

    def __call__(self, crop: CropMedia) -> Feature:
        self.calls.append(1)
        return self._one(crop)

    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        self.calls.append(len(crops))
        return [or_no_face(self._one, crop) for crop in crops]

    def _one(self, crop: CropMedia) -> Feature:
        value = int(crop.frames[0, 0, 0, 0])
        if value == 99:
            raise ZeroDivisionError("of all things")
        if value == 98:
            raise NoFaceError("a face in 0 of 5 frames")
        if value == 97:
            raise Impossible(Reason.BLURRED, "all grey")
        if value == 96:
            raise Temporary(FailureClass.DISK, "full", systemic=True)
        return {"tokens": np.full((2, 1), value, np.float16)}


def test_a_gpu_that_is_lost_ends_the_worker_and_charges_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        """In place of the end of this process."""

    def ended(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr("tasks.worker.os._exit", ended)
    lost = type("AcceleratorError", (RuntimeError,), {})
    for error in (lost("an illegal memory access"), RuntimeError("CUDA error: device-side assert triggered")):
        broken = Plain()
        monkeypatch.setattr(broken, "_one", lambda crop, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(Ended):
            list(encode(broken, crops(1, 2), BatchSize(1)))
    short = Plain()
    full = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    monkeypatch.setattr(short, "_one", lambda crop: (_ for _ in ()).throw(full))
    (lack,) = encode(short, crops(1), BatchSize(1))
    assert lack["failure"] == FailureClass.OUT_OF_MEMORY


class Batched(Plain):
    """Takes at most so many at once; a crop of 90 or more never fits. Tells of faces crop by crop."""

    gains = True

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def __call__(self, crop: CropMedia) -> Feature:
        return sure(self.many([crop])[0])

    def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
        self.calls.append(len(crops))
        if len(crops) > self.room or any(90 <= crop.frames[0, 0, 0, 0] < 96 for crop in crops):
            raise OOM("CUDA out of memory")
        return [or_no_face(self._one, crop) for crop in crops]


def said(found: Feature | dict[str, object]) -> object:
    if "tokens" in found:
        return int(np.asarray(found["tokens"])[0, 0])
    return found.get("failure") or found.get("reason")


def test_one_by_one_where_an_extractor_takes_no_more() -> None:
    extractor = Plain()
    assert not extractor.gains
    found = list(encode(extractor, crops(1, 99, 98, 97, 2), BatchSize(4)))
    assert [said(each) for each in found] == [1, FailureClass.BUG, Reason.NO_FACE, Reason.BLURRED, 2]
    assert extractor.calls == [1] * 5
    assert "ZeroDivisionError: of all things" in found[1]["traceback"]  # type: ignore[operator]  # text
    assert (found[2]["measured"], found[3]["measured"]) == ("a face in 0 of 5 frames", "all grey")


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered() -> None:
    extractor, size = Batched(room=2), BatchSize(8)
    assert extractor.gains
    assert [said(each) for each in encode(extractor, crops(*range(8)), size)] == list(range(8))
    assert extractor.calls == [8, 4, 2, 2, 2, 2]
    assert size.now == 2
    assert [said(each) for each in encode(extractor, crops(1, 2, 3), size)] == [1, 2, 3]
    assert extractor.calls[6:] == [2, 1], "it goes on with what fitted"


def test_what_does_not_fit_alone_is_its_own_failure() -> None:
    found = list(encode(Batched(room=4), crops(1, 2, 95, 3, 4), BatchSize(4)))
    assert [said(each) for each in found] == [1, 2, FailureClass.OUT_OF_MEMORY, 3, 4]
    memory = list(encode(Raising(MemoryError("no more")), crops(1), BatchSize(1)))
    assert said(memory[0]) == FailureClass.OUT_OF_MEMORY


class Raising(Plain):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def __call__(self, crop: CropMedia) -> Feature:
        raise self.error


def test_one_broken_crop_of_a_batch_costs_the_others_nothing() -> None:
    extractor = Batched(room=4)
    found = list(encode(extractor, crops(1, 99, 98, 2), BatchSize(4)))
    assert [said(each) for each in found] == [1, FailureClass.BUG, Reason.NO_FACE, 2]
    assert extractor.calls == [4, 1, 1, 1, 1]


def test_a_crop_without_a_face_costs_the_others_nothing() -> None:
    extractor, size = Batched(room=4), BatchSize(4)
    found = list(encode(extractor, crops(1, 98, 2, 97), size))
    assert [said(each) for each in found] == [1, Reason.NO_FACE, 2, Reason.BLURRED]
    assert found[1]["measured"] == "a face in 0 of 5 frames"
    assert extractor.calls == [4, 1, 1, 1, 1], "what is raised is one crop's, and nobody says whose"
    extractor.calls.clear()
    found = list(encode(extractor, crops(98, 1, 98, 2), size))
    assert [said(each) for each in found] == [Reason.NO_FACE, 1, Reason.NO_FACE, 2]
    assert extractor.calls == [4], "what stands in a crop's place is known to be its own"


def test_a_larger_batch_is_tried_again_later() -> None:
    extractor, size = Batched(room=2), BatchSize(4)
    list(encode(extractor, crops(*range(4)), size))
    assert size.now == 2
    extractor.room = 4
    for _ in range(GROW_AFTER):
        list(encode(extractor, crops(1, 2), size))
    assert size.now == 4
    list(encode(extractor, crops(*range(4)), size))
    assert extractor.calls[-1] == 4
    for _ in range(GROW_AFTER):
        list(encode(extractor, crops(*range(4)), size))
    assert size.now == 4, "never beyond the most"


def test_what_the_next_clip_would_meet_too_is_raised() -> None:
    with pytest.raises(Temporary, match="full"):
        list(encode(Plain(), crops(1, 96), BatchSize(1)))


def test_features_that_are_not_one_for_each_crop_are_refused() -> None:
    class Short(Batched):
        def many(self, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError]:
            return super().many(crops)[1:]

    with pytest.raises(ValueError, match="audio made 2 features of 3 crops"):
        list(encode(Short(4), crops(1, 2, 3), BatchSize(4)))
