"""DINOv2 and CLIP: pictures prepared as transformers does it, tokens those of its nets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualforce_model.encoders import ENCODERS
from dualforce_model.encoders.pictures import IMAGENET, OPENAI, Clip, Dinov2, Preparation
from dualforce_model.pretrained import DamagedWeightsError
from tests.unit.dualforce_model.encoders.tiny import (
    SIDE_PX,
    TINY,
    make_scarce,
    prepared,
    save_clip,
    save_dinov2,
    save_whole_clip,
)

PICTURES = ["dinov2", "clip"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: TINY[name](tmp_path_factory.mktemp(name)) for name in PICTURES}


def made(name: str, folder: Path, **settings: Any) -> Any:
    kind = ENCODERS[name]
    encoder = kind(kind.config_type(weights=folder, **settings))
    encoder.load()
    return encoder


def picture(height: int = 96, width: int = 96, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    return np.ascontiguousarray(coarse[rows][:, columns])


def processor(name: str, folder: Path | None) -> Any:
    from transformers import BitImageProcessorPil, CLIPImageProcessorPil

    kind = {"dinov2": BitImageProcessorPil, "clip": CLIPImageProcessorPil}[name]
    if folder is not None:
        return kind.from_pretrained(folder)
    return kind(size={"shortest_edge": 256}, **IMAGENET) if name == "dinov2" else kind()


@pytest.mark.parametrize("shape", [(96, 96), (512, 512), (40, 40), (97, 133), (200, 111)])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_prepared_as_transformers_does_it(
    folders: dict[str, Path], name: str, shape: tuple[int, int]
) -> None:
    image = picture(*shape)
    wanted = processor(name, folders[name])(image, return_tensors="np")["pixel_values"][0]
    found = made(name, folders[name])._prepare(image)
    assert found.shape == (3, SIDE_PX, SIDE_PX)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", PICTURES)
def test_without_a_word_from_the_folder_the_published_preparation_holds(name: str) -> None:
    kind: Any = ENCODERS[name]
    found = Preparation.model_validate(kind.prepared)(picture(300, 260))
    wanted = processor(name, None)(picture(300, 260), return_tensors="np")["pixel_values"][0]
    assert found.shape == (3, 224, 224)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert kind.prepared["image_mean"] == (IMAGENET if name == "dinov2" else OPENAI)["image_mean"]


@pytest.mark.parametrize("name", PICTURES)
def test_tokens_are_those_of_the_net(folders: dict[str, Path], name: str) -> None:
    shown = processor(name, folders[name])(picture(), return_tensors="pt")["pixel_values"]
    net = made(name, folders[name]).net
    with torch.inference_mode():
        said = net(pixel_values=shown, output_hidden_states=True)
    usual = said.last_hidden_state if name == "dinov2" else said.hidden_states[-2]
    for settings, hidden in (
        ({}, usual),
        ({"layer": None}, said.last_hidden_state),
        ({"layer": 0}, said.hidden_states[0]),
        ({"layer": -1}, said.hidden_states[-1]),
    ):
        tokens = made(name, folders[name], **settings)(picture())
        assert tokens.dtype == np.float32
        assert tokens.shape == (17, 32)
        np.testing.assert_allclose(tokens, hidden[0].numpy(), atol=1e-5)
        alone = made(name, folders[name], tokens="cls", **settings)(picture())
        assert np.array_equal(alone, tokens[:1])


@pytest.mark.parametrize("name", PICTURES)
def test_several_pictures_at_once_give_what_each_gives(folders: dict[str, Path], name: str) -> None:
    encoder, images = made(name, folders[name]), [picture(), picture(50, 80, 1), picture(60, 60, 2)]
    sizes = make_scarce(encoder.net, 3)
    found = encoder.many(images)
    assert sizes == [3], "one pass"
    assert [tokens.shape for tokens in found] == [(17, 32)] * 3
    np.testing.assert_allclose(found, [encoder(image) for image in images], atol=1e-5)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_do_not_fit_are_halved(folders: dict[str, Path], name: str) -> None:
    encoder, images = made(name, folders[name]), [picture(seed=seed) for seed in range(5)]
    whole = encoder.many(images)
    sizes = make_scarce(encoder.net, 2)
    np.testing.assert_allclose(encoder.many(images), whole, atol=1e-5)
    assert sizes == [2, 2, 1]
    make_scarce(encoder.net, 0)
    with pytest.raises(torch.OutOfMemoryError, match="no room for 1"):
        encoder(images[0])


def test_clip_gives_what_enters_its_last_layer(folders: dict[str, Path]) -> None:
    """As Wan takes it; the net's last layer makes its output of it."""
    encoder = made("clip", folders["clip"])
    entering = torch.from_numpy(encoder(picture()))[None]
    with torch.inference_mode():
        left = encoder.net.encoder.layers[-1](entering, attention_mask=None)
    left = left[0] if isinstance(left, tuple) else left
    np.testing.assert_allclose(left[0].numpy(), made("clip", folders["clip"], layer=None)(picture()), atol=1e-5)


def test_the_vision_half_of_a_whole_clip_is_read(tmp_path: Path) -> None:
    from transformers import CLIPModel

    encoder = made("clip", save_whole_clip(tmp_path), layer=None)
    assert encoder.num_features == 32
    whole = CLIPModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        shown = torch.from_numpy(encoder._prepare(picture()))[None]
        wanted = whole.vision_model(pixel_values=shown).last_hidden_state
    np.testing.assert_allclose(encoder(picture()), wanted[0].numpy(), atol=1e-5)


def test_dinov2_takes_other_sizes_and_clip_does_not(tmp_path: Path) -> None:
    larger = {"size": {"shortest_edge": 70}, "crop_size": {"height": 70, "width": 70}}
    assert made("dinov2", prepared(save_dinov2(tmp_path / "d"), **larger))(picture()).shape == (26, 32)
    with pytest.raises(DamagedWeightsError, match="positions for 56"):
        made("clip", prepared(save_clip(tmp_path / "c"), **larger))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"crop_size": {"height": 57, "width": 57}}, "no multiple of patches of 14"),
        ({"crop_size": {"height": 70, "width": 70}}, "smaller than crop_size"),
        ({"crop_size": {"height": 56, "width": 42}}, "squares of one size"),
        ({"size": {"longest_edge": 64}}, "other sides than expected"),
        ({"size": {"shortest_edge": 10**9}}, "sides of 1 to 2048 px"),
        ({"image_std": [0, 1, 1]}, "spreads are above 0"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"resample": 9}, "resample"),
        ({"rescale_factor": "inf"}, "rescale_factor"),
    ],
)
def test_preparations_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DamagedWeightsError, match=complaint):
        made("dinov2", prepared(save_dinov2(tmp_path), **settings))


def test_old_and_new_spellings_of_sizes_are_one(tmp_path: Path) -> None:
    new = made("dinov2", save_dinov2(tmp_path))
    prepared(tmp_path, size=64, crop_size=SIDE_PX)
    assert np.array_equal(made("dinov2", tmp_path)(picture()), new(picture()))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_resize": False, "do_center_crop": True}))
    with pytest.raises(DamagedWeightsError, match="there is no resizing"):
        made("dinov2", tmp_path)


@pytest.mark.parametrize(
    ("kind", "config"), [(Dinov2, {"layer": 3}), (Dinov2, {"layer": -4}), (Clip, {"layer": 4}), (Clip, {"layer": -5})]
)
def test_layers_that_are_not_there_are_refused(
    folders: dict[str, Path], kind: type[Dinov2 | Clip], config: dict[str, Any]
) -> None:
    with pytest.raises(DamagedWeightsError, match="hidden states"):
        made(kind.name, folders[kind.name], **config)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(folders: dict[str, Path], image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        made("dinov2", folders["dinov2"])(image)
