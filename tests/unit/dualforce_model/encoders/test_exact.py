"""No TF32 while an encoder computes, and what was set before comes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualforce_model.encoders import make_encoder
from dualforce_model.encoders.exact import exact_arithmetic
from tests.unit.dualforce_model.encoders.tiny import TINY

EXACT, RASH = ("highest", False, False, True), ("high", True, True, False)


def flags() -> tuple[str, bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic


@pytest.fixture
def rash() -> Iterator[None]:
    """Settings of somebody who wants it fast."""
    before = torch.get_float32_matmul_precision()
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        torch.set_float32_matmul_precision("high")
        yield
        torch.set_float32_matmul_precision(before)


def under(net: torch.nn.Module) -> set[tuple[str, bool, bool, bool]]:
    """Under what flags the net's layers are called from now on."""
    found: set[tuple[str, bool, bool, bool]] = set()
    for module in net.modules():
        module.register_forward_pre_hook(lambda *_: found.add(flags()))
    return found


@pytest.mark.usefixtures("rash")
def test_inside_it_is_exact_and_outside_as_before() -> None:
    assert flags() == RASH
    with exact_arithmetic():
        assert flags() == EXACT
        with exact_arithmetic():
            assert flags() == EXACT
        assert flags() == EXACT
    assert flags() == RASH
    with pytest.raises(RuntimeError, match="inside"), exact_arithmetic():
        raise RuntimeError("inside")
    assert flags() == RASH


@pytest.mark.usefixtures("rash")
@pytest.mark.parametrize("name", TINY)
def test_the_hub_s_nets_compute_so(tmp_path: Path, name: str) -> None:
    encoder: Any = make_encoder(name, {"weights": TINY[name](tmp_path)})
    encoder.load()
    found = under(encoder.net)
    if encoder.modality == "audio":
        encoder(np.ones(640, np.float32))
    elif encoder.modality == "video":
        latents = encoder.encode(np.zeros((1, 16, 16, 3), np.uint8))
        assert found == {EXACT}
        found.clear()
        encoder.decode(latents)
    else:
        encoder(np.zeros((64, 64, 3), np.uint8))
    assert found == {EXACT}
    assert flags() == RASH


@pytest.mark.usefixtures("rash")
def test_the_text_encoder_computes_so(tiny_umt5: Path) -> None:
    encoder: Any = make_encoder("umt5", {"weights": tiny_umt5, "precision": "fp32"})
    encoder.load()
    found = under(encoder.net)
    encoder(["a man"])
    assert found == {EXACT}


@pytest.mark.gpu
@pytest.mark.usefixtures("rash")
def test_on_cuda_products_and_convolutions_are_those_of_fp32() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1, 256, 256, generator=draw) for _ in range(2))
    kernel = torch.randn(256, 256, 3, generator=draw)
    for compute in (lambda a, b, _: a @ b, lambda a, _, k: torch.nn.functional.conv1d(a, k)):
        wanted = compute(x.double(), y.double(), kernel.double())
        with exact_arithmetic():
            found = compute(x.cuda(), y.cuda(), kernel.cuda()).cpu()
        assert (found - wanted).abs().max() < 2e-4
