"""The files of published nets: what is loaded, what is refused and how it is said. By FID's and FVD's nets."""

import pickle
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dualforce_model.encoders.i3d import I3D, load_i3d
from dualforce_model.encoders.inception import Inception, load_inception
from dualforce_model.encoders.published import is_script
from dualforce_model.weight_files import WeightsError
from tests.pickled import save_pickled, vouched


class Published(NamedTuple):
    """A net, its loader, the name of its file, and of it what the tests look at."""

    make: Callable[[], nn.Module]
    load: Callable[[Path], nn.Module]
    file: str
    first: str
    shape: list[int]
    count: int
    what: str


NETS = [
    Published(
        Inception,
        load_inception,
        "pt_inception-2015-12-05-6726825d.pth",
        "Conv2d_1a_3x3.conv.weight",
        [32, 3, 3, 3],
        472,
        r"Inception-v3 \(2015-12-05\)",
    ),
    Published(
        I3D,
        load_i3d,
        "i3d_pretrained_400.pt",
        "Conv3d_1a_7x7.conv3d.weight",
        [64, 3, 7, 7, 7],
        287,
        r"I3D \(Kinetics-400, i3d_pretrained_400\.pt\)",
    ),
]
each_net = pytest.mark.parametrize("net", NETS, ids=["inception", "i3d"])


def counted(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def hollow(net: Published, **tensors: Tensor) -> dict[str, Tensor]:
    """All names, with one number each: what is wrong with the first is told before the others are looked at."""
    state = {name: torch.zeros(1) for name in net.make().state_dict() if not counted(name)}
    return state | {net.first if name == "first" else name: tensor for name, tensor in tensors.items()}


@each_net
def test_every_form_gives_the_same_net(net: Published, tmp_path: Path) -> None:
    state = net.make().state_dict()
    weights = {name: tensor for name, tensor in state.items() if not counted(name)}
    path, other = tmp_path / net.file, tmp_path / "other.safetensors"
    for save in (
        lambda: save_pickled(state, path, _use_new_zipfile_serialization=False),  # before torch 1.6
        lambda: save_pickled(weights, path),  # counters are not insisted on
        lambda: save_file(state, other),
    ):
        save()
        loaded = net.load(other if other.exists() else path)
        assert not any(module.training for module in loaded.modules())
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        assert len(weights) == net.count
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in weights.items())
        path.unlink(missing_ok=True)
    other.unlink()


@each_net
def test_what_is_wrong_with_a_file_is_named(net: Published, tmp_path: Path) -> None:
    path = tmp_path / net.file
    first, shape = net.first.replace(".", r"\."), str(net.shape).replace("[", r"\[").replace("]", r"\]")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"a": torch.zeros(1)}, rf"no {first}.* and \d+ more; expected the {net.count} weights of {net.what}"),
        ({name: each for name, each in hollow(net).items() if name != net.first}, rf"no {first}; expected the"),
        (hollow(net), rf"{first} is \[1\], expected {shape} of {net.what}"),
        (hollow(net, stray=torch.zeros(1)), rf"stray has no place in {net.what}"),
        (hollow(net, first=torch.full(net.shape, torch.nan)), "holds NaN or infinity"),
        (hollow(net, first=torch.full(net.shape, -torch.inf)), "holds NaN or infinity"),
        (hollow(net, first=torch.zeros(net.shape, dtype=torch.int64)), "expected a plain float"),
        ({"epoch": 3, **hollow(net)}, "more than named tensors"),
    ]
    for state, complaint in cases:
        for zipped in (True, False):
            save_pickled(state, path, _use_new_zipfile_serialization=zipped)
            with pytest.raises(WeightsError, match=complaint) as raised:
                net.load(path)
            assert str(path) in str(raised.value)
    for content in (b"", b"PK\x03\x04 no archive", b"\x80\x02\x8a\x0a torn", b"<html>not found</html>"):
        path.write_bytes(content)
        vouched(path)
        with pytest.raises(WeightsError, match="not readable"):
            net.load(path)
    for nothing in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(WeightsError, match="not readable"):
            net.load(nothing)


class Code:
    """Unpickling it would run something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


@each_net
def test_code_in_a_checkpoint_is_never_run(net: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pickled({net.first: Code()}, "new.pt")
    save_pickled({net.first: Code()}, "old.pth", _use_new_zipfile_serialization=False)
    Path("bare.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    vouched(Path("bare.pth"))
    Path("bare.model").write_bytes(pickle.dumps(Code(), protocol=2))
    vouched(Path("bare.model"))
    for name in ("new.pt", "old.pth", "bare.pth", "bare.model"):
        with pytest.raises(WeightsError, match="not readable as") as raised:
            net.load(Path(name))
        assert "weights_only" not in "".join(traceback.format_exception(raised.value))  # torch says how to run it
    assert not Path("ran").exists()


@each_net
def test_a_torchscript_is_told_from_weights(net: Published, tmp_path: Path) -> None:
    script = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scripting is; the published files stay
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), script)
    with pytest.raises(WeightsError, match="a TorchScript, which is a program") as raised:
        net.load(script)
    assert str(script) in str(raised.value)


def test_only_a_torchscript_is_taken_for_one(tmp_path: Path) -> None:
    save_pickled({"a": torch.zeros(1)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"PK\x03\x04 no archive")
    assert not any(is_script(tmp_path / name) for name in ("a.pt", "b.pt", "gone.pt", "."))
