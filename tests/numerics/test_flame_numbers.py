"""SMIRK and DECA against their references' numbers, with weights that are a function of their names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dualforce_model import flame
from dualforce_model.encoders.deca import DecaNet, EmocaNet, load_deca, load_emoca
from dualforce_model.encoders.flame_crops import box_square, landmarks_square, mesh_square, to_crop
from dualforce_model.encoders.flame_rows import flame_layout
from dualforce_model.encoders.smirk import SmirkNet, load_smirk
from tests.pickled import save_pickled

RELATIVE = 1e-5  # of the largest value: what a correct 32-bit run stays well under
ROW = flame_layout("golden")


def close(found: Any, wanted: Any, relative: float = RELATIVE) -> None:
    found, expected = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == expected.shape
    distance, allowed = np.abs(found - expected).max(), relative * np.abs(expected).max()
    assert distance <= allowed, f"{distance:.1e} away, {allowed:.1e} allowed"


def shown(numbers: dict[str, Tensor]) -> Tensor:
    return numbers["image_rgb_u8"].permute(0, 3, 1, 2) / 255


def row(fields: dict[str, Tensor]) -> np.ndarray:
    return ROW.join({name: fields[name].numpy() for name in flame.LAYOUT})


# ---------------------------------------------------------------------------------------------------------- SMIRK


@pytest.fixture(scope="module")
def smirk_numbers(golden: Callable[[str], Any]) -> Any:
    return golden("smirk")


@pytest.fixture(scope="module")
def smirk(
    smirk_numbers: Any, encoder_weights: Callable[..., dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> SmirkNet:
    """As from the published file, which holds another net too."""
    weights = {f"smirk_encoder.{name}": each for name, each in encoder_weights(smirk_numbers.facts).items()}
    path = tmp_path_factory.mktemp("weights") / "SMIRK_em1.pt"
    save_pickled({**weights, "smirk_generator.conv.weight": torch.ones(2)}, path)
    made = load_smirk(path)
    assert sum(parameter.numel() for parameter in made.parameters()) == 3_599_921
    assert len(made.state_dict()) == 762
    return made


@torch.inference_mode()
def smirk_agrees(net: SmirkNet, wanted: dict[str, Tensor]) -> None:
    said = net(shown(wanted))._asdict()
    for name, field in (
        ("shape", "shape_params"),
        ("expression", "expression_params"),
        ("eyelids", "eyelid_params"),
        ("jaw", "jaw_params"),
        ("pose", "pose_params"),
        ("camera", "cam"),
    ):
        close(said[name], wanted[field])
    for branch in ("pose", "shape", "expression"):
        close(net.get_submodule(f"{branch}_encoder").pooled(shown(wanted)), wanted[f"pooled_{branch}"])
    close(row({**said, "shape": said["shape"][:, :100]}), wanted["flame159"])


def test_smirk(smirk: SmirkNet, smirk_numbers: Any) -> None:
    smirk_agrees(smirk, smirk_numbers.numbers)


def test_smirk_two_pictures_at_once(smirk: SmirkNet, shared: Path) -> None:
    smirk_agrees(smirk, load_file(shared / "golden" / "encoders" / "smirk.safetensors"))


def test_every_stage_of_smirk(smirk: SmirkNet, smirk_numbers: Any) -> None:
    """Means of the maps where their size halves, and at the end."""
    for branch, stages in (("pose", (None, 0, 1, 3, 5)), ("expression", (0, 1, 2, 4, 6))):
        backbone = smirk.get_submodule(f"{branch}_encoder.encoder")
        with torch.inference_mode():
            x = torch.relu(backbone.bn1(backbone.conv_stem(shown(smirk_numbers.numbers))))
            maps = {None: x}
            for index, stage in enumerate(backbone.blocks):
                maps[index] = x = stage(x)
        for place, stage_index in enumerate(stages):
            close(maps[stage_index].mean((2, 3)), smirk_numbers[f"stage_mean_{branch}_{place}"])


def test_the_bound_tells_smirks_mistakes_apart(smirk: SmirkNet, smirk_numbers: Any) -> None:
    """The usual epsilon, and colours in the other order."""
    norms = [module for module in smirk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
    flipped = {**smirk_numbers.numbers, "image_rgb_u8": smirk_numbers["image_rgb_u8"].flip(-1)}
    with pytest.raises(AssertionError, match="away"):
        smirk_agrees(smirk, flipped)
    try:
        for norm in norms:
            norm.eps = 1e-5
        with pytest.raises(AssertionError, match="away"):
            smirk_agrees(smirk, smirk_numbers.numbers)
    finally:
        for norm in norms:
            norm.eps = 1e-3


# ----------------------------------------------------------------------------------------------------------- DECA


@pytest.fixture(scope="module")
def deca_numbers(golden: Callable[[str], Any]) -> Any:
    return golden("deca_flame")


@pytest.fixture(scope="module")
def deca_weights(deca_numbers: Any, encoder_weights: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    return encoder_weights(deca_numbers.facts)


@pytest.fixture(scope="module")
def deca(deca_weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> DecaNet:
    """As from the published file: several nets, and what the training counted."""
    path = tmp_path_factory.mktemp("weights") / "deca_model.tar"
    others = {"E_detail": {"encoder.conv1.weight": torch.ones(1)}, "global_step": 7, "batch_size": 2}
    save_pickled({"E_flame": deca_weights, **others}, path)
    made = load_deca(path)
    path.unlink()
    assert len(made.E_flame.state_dict()) == 322
    return made


def deca_agrees(net: DecaNet, wanted: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        close(net.E_flame(shown(wanted)), wanted["parameters"])
        close(net.E_flame.encoder(shown(wanted)), wanted["pooled_feature"])
        said = net(shown(wanted))._asdict()
    for name, field in (("shape", "shape"), ("expression", "exp"), ("camera", "cam")):
        close(said[name], wanted[field])
    close(torch.cat([said["pose"], said["jaw"]], dim=1), wanted["pose"])
    close(row(said), wanted["flame159"])


def test_deca(deca: DecaNet, deca_numbers: Any) -> None:
    deca_agrees(deca, deca_numbers.numbers)


def test_deca_two_pictures_at_once(deca: DecaNet, shared: Path) -> None:
    deca_agrees(deca, load_file(shared / "golden" / "encoders" / "deca_flame.safetensors"))


def test_the_bound_sees_a_stride_on_the_wrong_convolution(deca: DecaNet, deca_numbers: Any) -> None:
    moved = [module for module in deca.modules() if hasattr(module, "conv2") and module.conv2.stride == (2, 2)]
    assert len(moved) == 3
    try:
        for block in moved:
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
        with pytest.raises(AssertionError, match="away"):
            deca_agrees(deca, deca_numbers.numbers)
    finally:
        for block in moved:
            block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)


def test_emoca_replaces_expression_and_jaw(
    deca: DecaNet, deca_numbers: Any, deca_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """Its second net is the first one's with fewer outputs: here its own expression and jaw, turned over."""
    kept = [*range(150, 200), *range(203, 206)]  # of shape 100, texture 50, expression 50, pose 3, jaw 3
    finer = {name: -each[kept] if name.startswith("layers.2.") else each for name, each in deca_weights.items()}
    prefixed = {
        **{f"deca.E_flame.{name}": each for name, each in deca_weights.items()},
        **{f"deca.E_expression.{name}": each for name, each in finer.items()},
        "deca.E_detail.layers.0.bias": torch.ones(1),
    }
    path = tmp_path / "emoca.safetensors"
    save_file({name: each.clone() for name, each in prefixed.items()}, path)
    emoca = load_emoca(path)
    path.unlink()
    assert isinstance(emoca, EmocaNet)
    with torch.inference_mode():
        said, base = emoca(shown(deca_numbers.numbers)), deca(shown(deca_numbers.numbers))
    close(said.expression, -base.expression)
    close(said.jaw, -base.jaw)
    for name in ("shape", "pose", "camera"):
        assert torch.equal(getattr(said, name), getattr(base, name))


# ---------------------------------------------------------------------------------------------------------- crops


def crops_agree(crops: list[dict[str, Any]]) -> None:
    for crop in crops:
        left, top, right, bottom = crop["landmark_extent_ltrb"]
        inside = np.array([((left + right) / 2, (top + bottom) / 2, 5.0)])
        points = np.concatenate([np.array([(left, bottom, -9.0), (right, top, 3.0)]), inside])
        for square, told in (
            (mesh_square(points), crop["smirk_scale1.4"]),
            (landmarks_square(points[:, :2]), crop["deca_kpt68_scale1.25"]),
            (box_square(np.array([left, top, right, bottom])), crop["deca_bbox_scale1.25"]),
        ):
            assert square.side == told["size"]
            np.testing.assert_allclose((square.x, square.y), told["center"], atol=1e-9)
            np.testing.assert_allclose(to_crop(square), told["M_o2c"], atol=2e-5, rtol=2e-6)


def test_crops(smirk_numbers: Any) -> None:
    assert len(smirk_numbers.facts["crops"]) == 2
    crops_agree(smirk_numbers.facts["crops"])


def test_crops_where_they_came_from(shared: Path) -> None:
    crops_agree(json.loads((shared / "golden" / "encoders" / "crops.json").read_text())["flame_crop"])
