"""A batch whose modalities disagree cannot be built."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.model import PRESETS

TINY = PRESETS["tiny"]


def fake(**changes: torch.Tensor) -> TalkingHeadBatch:
    return replace(TalkingHeadBatch.fake(TINY, batch=2, num_steps=4), **changes)


def samples_of(batch: TalkingHeadBatch) -> list[dict[str, torch.Tensor]]:
    names = [field.name for field in fields(batch) if getattr(batch, field.name) is not None]
    return [{name: getattr(batch, name)[row] for name in names} for row in range(len(batch))]


def test_fake_batches_are_whole_and_reproducible() -> None:
    batch = fake()
    assert (len(batch), batch.num_steps) == (2, 4)
    assert torch.equal(batch.video, fake().video)
    assert torch.equal(batch.reference, batch.video[:, 0])
    assert batch.positions.tolist() == [[0, 1, 2, 3]] * 2
    assert not batch.audio_mask[:, 0, :6].any()


@pytest.mark.parametrize("name", ["video", "structure", "audio", "positions", "audio_mask"])
def test_disagreeing_steps_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"disagree about the number of steps: .*{name} 3") as caught:
        fake(**{name: getattr(fake(), name)[:, :3]})
    assert "cut all to the same steps" in str(caught.value)


def test_disagreeing_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="number of clips"):
        fake(weights=torch.ones(3))


def test_wrong_entries_per_step_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"structure has the shape \(2, 4, 3, 32\): expected \[clips, steps, 4, width\]"
    ):
        fake(structure=torch.zeros(2, 4, 3, 32))
    with pytest.raises(ValueError, match="audio has the shape"):
        fake(audio=torch.zeros(2, 4, 7, 40))


def test_canonical_is_one_row_of_every_clip() -> None:
    structure = TINY.structure.model_copy(update={"canonical_dim": 63})
    known = TalkingHeadBatch.fake(TINY.model_copy(update={"structure": structure}), batch=2, num_steps=4)
    assert known.canonical.shape == (2, 63)
    assert fake().canonical is None
    assert torch.equal(known.structure, fake().structure)  # what is optional is drawn last
    again = TalkingHeadBatch.stack(samples_of(known))
    assert torch.equal(again.canonical, known.canonical)
    with pytest.raises(ValueError, match=r"canonical has the shape \(2, 1, 63\): expected \[clips, numbers\]"):
        fake(canonical=torch.zeros(2, 1, 63))
    with pytest.raises(ValueError, match=r"number of clips: .*canonical 3"):
        fake(canonical=torch.zeros(3, 63))
    with pytest.raises(ValueError, match="a sample has the fields"):
        TalkingHeadBatch.stack([*samples_of(known), *samples_of(fake())])


def test_a_reference_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        fake(reference=torch.zeros(2, 16, 6, 6))


@pytest.mark.parametrize("row", [[1, 2, 3, 4], [0, 2, 4, 5], [0, 0, 1, 2], [0, -1, 0, 1]])
def test_positions_start_at_the_reference_and_run_on(row: list[int]) -> None:
    with pytest.raises(ValueError, match="expected 0"):
        fake(positions=torch.tensor([row, row]))


def test_a_window_may_start_anywhere() -> None:
    assert fake(positions=torch.tensor([[0, 7, 8, 9], [0, 1, 2, 3]])).num_steps == 4


def test_samples_stack_and_odd_ones_are_refused() -> None:
    whole = fake()
    samples = samples_of(whole)
    names = list(samples[0])
    stacked = TalkingHeadBatch.stack(samples)
    assert all(torch.equal(getattr(stacked, name), getattr(whole, name)) for name in names)
    as_arrays = [{name: np.asarray(value) for name, value in sample.items()} for sample in samples]
    assert torch.equal(TalkingHeadBatch.stack(as_arrays).audio, whole.audio)
    with pytest.raises(ValueError, match="shape of video"):
        TalkingHeadBatch.stack([samples[0], {**samples[1], "video": samples[1]["video"][:3]}])
    with pytest.raises(ValueError, match="fields"):
        TalkingHeadBatch.stack([{"video": samples[0]["video"]}])
    with pytest.raises(ValueError, match="no samples"):
        TalkingHeadBatch.stack([])


def test_moving_keeps_everything() -> None:
    moved = fake().to("meta")
    assert moved.video.device.type == "meta"
    assert moved.positions.shape == (2, 4)


def test_flame_is_there_for_all_samples_or_for_none() -> None:
    whole = fake(flame=torch.zeros(2, 4, 4, 56))
    samples = samples_of(whole)
    assert TalkingHeadBatch.stack(samples).flame is not None
    without = {name: value for name, value in samples[1].items() if name != "flame"}
    assert TalkingHeadBatch.stack([without]).to("cpu").flame is None
    with pytest.raises(ValueError, match="a sample has the fields"):
        TalkingHeadBatch.stack([samples[0], without])
    with pytest.raises(ValueError, match=r"expected \[clips, steps, 4, 56\]"):
        fake(flame=torch.zeros(2, 4, 4, 50))
    with pytest.raises(ValueError, match="flame 3"):
        fake(flame=torch.zeros(2, 3, 4, 56))


def knowing() -> TalkingHeadBatch:
    video = TINY.video.model_copy(update={"feature_dim": 7})
    return TalkingHeadBatch.fake(TINY.model_copy(update={"video": video}), batch=2, num_steps=4)


def test_fake_batches_have_the_features_that_the_model_takes() -> None:
    assert fake().features is None
    batch = knowing()
    assert batch.features is not None
    assert batch.features.shape[::2] == (2, 7)
    for with_features, without in zip(samples_of(batch), samples_of(fake()), strict=True):
        assert all(torch.equal(with_features[name], value) for name, value in without.items())


def test_features_are_checked_by_name_and_there_for_all_samples_or_for_none() -> None:
    whole = knowing()
    assert whole.features is not None
    again = TalkingHeadBatch.stack(samples_of(whole)).features
    assert again is not None
    assert torch.equal(again, whole.features)
    moved = whole.to("meta").features
    assert moved is not None
    assert moved.device.type == "meta"
    with pytest.raises(ValueError, match=r"the number of clips: .*features 3"):
        replace(whole, features=torch.zeros(3, 5, 7))
    for wrong in (torch.zeros(2, 7), torch.zeros(2, 0, 7), torch.zeros(2, 1, 5, 7)):
        with pytest.raises(
            ValueError, match=r"features has the shape .* expected \[clips, reference features, width\]"
        ):
            replace(whole, features=wrong)
    one, other = samples_of(whole)
    with pytest.raises(ValueError, match="a sample has the fields"):
        TalkingHeadBatch.stack([one, {name: value for name, value in other.items() if name != "features"}])
    with pytest.raises(ValueError, match="the shape of features"):
        TalkingHeadBatch.stack([one, {**other, "features": other["features"][:4]}])
