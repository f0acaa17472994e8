"""FID's Inception-v3 and FVD's I3D against the references' numbers, with weights that are functions of their names."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dualforce_model.encoders.i3d import I3D, net_clips
from dualforce_model.encoders.inception import Inception
from dualforce_model.encoders.inception.pictures import resize

RELATIVE = 1e-5  # of the largest value: what a correct 32-bit run stays well under (it is 5e-7 away)
RESIZED = 1e-3  # grey values of 0 to 255


Filled = Callable[[nn.Module, Any], Any]


@pytest.fixture
def filled(encoder_weights: Callable[..., dict[str, Tensor]]) -> Filled:
    """Gives a net the weights of its facts: it has the published names and shapes, each and no other."""

    def fill(net: nn.Module, facts: Any) -> Any:
        assert {name: list(tensor.shape) for name, tensor in net.state_dict().items()} == dict(facts["state_dict"])
        net.load_state_dict(encoder_weights(facts))
        return net

    return fill


def watch(net: nn.Module) -> dict[str, Tensor]:
    """What the stages give, by their names, after the net was run."""
    seen: dict[str, Tensor] = {}
    for name, stage in net.named_children():
        stage.register_forward_hook(lambda _stage, _inputs, given, name=name: seen.__setitem__(name, given))
    return seen


def close(found: Any, wanted: Tensor) -> None:
    found, expected = np.asarray(found, np.float64), wanted.double().numpy()
    assert found.shape == expected.shape
    distance = np.abs(found - expected).max() / np.abs(expected).max()
    assert distance <= RELATIVE, f"{distance:.1e} of the largest value away"


# ------------------------------------------------------------------------------------------------------------ pictures


def check_inception(net: Inception, numbers: Any) -> None:
    pictures = numbers["images_nchw_u8"]
    row = resize(pictures.float())[:, :, 100]
    assert (row - numbers["resized_299_row_100"]).abs().max() <= RESIZED
    seen = watch(net)
    features = net.features(pictures.permute(0, 2, 3, 1).numpy())
    for stage, name in (("pool_64", "feat_64"), ("pool_192", "feat_192"), ("Mixed_6e", "feat_768")):
        close(seen[stage].mean(dim=(2, 3)), numbers[name])
    close(features, numbers["feat_2048"])
    close(net.logits(torch.from_numpy(features)), numbers["logits_unbiased"])


def test_inception(golden: Callable[[str], Any], filled: Filled) -> None:
    numbers = golden("fid_inception")
    check_inception(filled(Inception(), numbers.facts), numbers)


@pytest.mark.parametrize("mistake", ["none", "bgr", "epsilon", "border", "average in the last block"])
def test_what_is_peculiar_about_inception_is_seen(golden: Callable[[str], Any], filled: Filled, mistake: str) -> None:
    """The numbers would tell the better known Inception-v3 from this one."""
    numbers = golden("fid_inception")
    net, pictures = filled(Inception(), numbers.facts), numbers["images_nchw_u8"].permute(0, 2, 3, 1).numpy()
    if mistake == "bgr":
        pictures = pictures[..., ::-1]
    for module in net.modules():
        if mistake == "epsilon" and isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    for block, walk in ((net.Mixed_7b, net.Mixed_7b._walks[-1]), (net.Mixed_7c, net.Mixed_7c._walks[-1])):
        if mistake == "border" and block is net.Mixed_7b:
            walk[0] = [nn.AvgPool2d(3, 1, padding=1)]
        if mistake == "average in the last block" and block is net.Mixed_7c:
            walk[0] = [nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)]
    with nullcontext() if mistake == "none" else pytest.raises(AssertionError, match="of the largest value away"):
        close(net.features(pictures), numbers["feat_2048"])


def test_inception_on_every_picture(shared: Path, filled: Filled) -> None:
    check_inception(*whole(shared, "fid_inception", Inception(), filled))


# --------------------------------------------------------------------------------------------------------------- clips


def check_i3d(net: I3D, numbers: Any) -> None:
    clips = numbers["video_u8"]
    assert (net_clips(clips)[:, :, 3, 100] - numbers["preprocessed_row"]).abs().max() <= RESIZED / 127.5
    seen = watch(net)
    close(net.features(clips.numpy()), numbers["logits_400"])
    for stage in ("Conv3d_1a_7x7", "Mixed_3c", "Mixed_4f", "Mixed_5c"):
        close(seen[stage].mean(dim=(3, 4)), numbers[f"spatial_mean_{stage}"])


def test_i3d(golden: Callable[[str], Any], filled: Filled) -> None:
    numbers = golden("i3d_kinetics400")
    check_i3d(filled(I3D(), numbers.facts), numbers)


@pytest.mark.parametrize("mistake", ["bgr", "epsilon", "backwards"])
def test_what_is_peculiar_about_i3d_is_seen(golden: Callable[[str], Any], filled: Filled, mistake: str) -> None:
    numbers = golden("i3d_kinetics400")
    net, clips = filled(I3D(), numbers.facts), numbers["video_u8"].numpy()
    if mistake == "bgr":
        clips = clips[..., ::-1]
    if mistake == "backwards":
        clips = clips[:, ::-1]
    for module in net.modules():
        if mistake == "epsilon" and isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    with pytest.raises(AssertionError, match="of the largest value away"):
        close(net.features(clips), numbers["logits_400"])


def test_i3d_on_every_clip(shared: Path, filled: Filled) -> None:
    check_i3d(*whole(shared, "i3d_kinetics400", I3D(), filled))


def whole(shared: Path, name: str, net: nn.Module, filled: Filled) -> tuple[Any, dict[str, Tensor]]:
    """The numbers of both pictures or clips, which are too large for the clone."""
    folder = shared / "golden" / "encoders"
    facts = json.loads((folder / f"{name}.json").read_text())
    told = {"state_dict": facts["state_dict"], "recipe_gain": facts["config"]["recipe_gain"]}
    return filled(net, told), load_file(folder / f"{name}.safetensors")
