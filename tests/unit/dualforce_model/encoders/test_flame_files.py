"""Files of SMIRK, DECA and EMOCA: which forms are read, what is refused and how it is said."""

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dualforce_model.encoders.deca import DecaNet, EmocaNet, load_deca, load_emoca
from dualforce_model.encoders.smirk import SmirkNet, load_smirk
from dualforce_model.weight_files import WeightsError
from tests.pickled import save_pickled, vouched


class Published(NamedTuple):
    """A net, its loader, the name of its file, how a state dict lies in it, and its first tensor."""

    make: Callable[[], nn.Module]
    load: Callable[[Path], nn.Module]
    file: str
    nested: Callable[[dict[str, Any]], dict[str, Any]]
    prefix: str
    first: str
    what: str


def in_groups(state: dict[str, Any]) -> dict[str, Any]:
    """As DECA's trainer saved it: a dictionary per net, and numbers."""
    groups: dict[str, Any] = {"global_step": 3}
    for name, each in state.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = each
    return groups


NETS = [
    Published(
        SmirkNet,
        load_smirk,
        "SMIRK_em1.pt",
        lambda state: state,
        "smirk_encoder.",
        "pose_encoder.encoder.conv_stem.weight",
        "SMIRK's encoder",
    ),
    Published(
        DecaNet, load_deca, "deca_model.tar", in_groups, "", "E_flame.encoder.conv1.weight", "DECA's coarse encoder"
    ),
    Published(
        EmocaNet,
        load_emoca,
        "emoca.ckpt",
        lambda state: {"epoch": 4, "state_dict": state, "lr_schedulers": [{"step": 1}]},
        "deca.",
        "E_flame.encoder.conv1.weight",
        "DECA's coarse encoder",
    ),
]
each_net = pytest.mark.parametrize("net", NETS, ids=["smirk", "deca", "emoca"])


def hollow(net: Published, **tensors: Tensor) -> dict[str, Any]:
    """All names, with one number each: what is wrong with the first is told before the others are looked at."""
    with torch.device("meta"):
        names = [name for name in net.make().state_dict() if not name.endswith("num_batches_tracked")]
    state = dict.fromkeys(names, torch.zeros(1))  # stored once
    state |= {net.first if name == "first" else name: each for name, each in tensors.items()}
    return {f"{net.prefix}{name}": each for name, each in state.items()}


@each_net
def test_both_forms_give_the_same_net(net: Published, tmp_path: Path) -> None:
    with torch.device("meta"):
        empty = net.make().state_dict().items()
    state = {
        f"{net.prefix}{name}": torch.full(each.shape, index, dtype=each.dtype)
        for index, (name, each) in enumerate(empty)
    }
    path, plain = tmp_path / net.file, tmp_path / "plain.safetensors"
    save_pickled(net.nested({**state, "another.net.weight": torch.ones(1)}), path)
    save_file(state, plain)
    for file in (path, plain):
        loaded = net.load(file)
        file.unlink()
        assert not any(module.training for module in loaded.modules())
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        found = {f"{net.prefix}{name}": each for name, each in loaded.state_dict().items()}
        assert all(torch.equal(found[name], each) for name, each in state.items() if "num_batches" not in name)


@each_net
def test_what_is_wrong_with_a_file_is_named(net: Published, tmp_path: Path) -> None:
    path = tmp_path / net.file
    with torch.device("meta"):
        shape = list(net.make().state_dict()[net.first].shape)
    missing = {name: each for name, each in hollow(net).items() if name != f"{net.prefix}{net.first}"}
    inside = net.first.partition(".")[0] + ".stray"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"a": torch.zeros(1)}, rf"no .* and \d+ more; expected the \d+ weights of {net.what}"),
        (missing, rf"no {net.prefix}{net.first}; expected the"),
        (hollow(net), rf"conv.*\.weight is \[1\], expected \[{shape[0]}, 3, {shape[2]}, {shape[3]}\] of {net.what}"),
        (hollow(net, **{inside: torch.zeros(1)}), rf"stray has no place in {net.what}"),
        (hollow(net, first=torch.full(shape, torch.nan)), "holds NaN or infinity"),
        (hollow(net, first=torch.zeros(shape, dtype=torch.int64)), "expected a plain float"),
    ]
    for state, complaint in cases:
        save_pickled(net.nested(state), path)
        with pytest.raises(WeightsError, match=complaint) as raised:
            net.load(path)
        assert str(path) in str(raised.value)
    for content in (b"", b"PK\x03\x04 no archive", b"\x80\x02\x8a\x0a torn", b"<html>not found</html>"):
        path.write_bytes(content)
        vouched(path)
        with pytest.raises(WeightsError, match="not readable"):
            net.load(path)
    for nothing in (tmp_path / "gone.ckpt", tmp_path):
        with pytest.raises(WeightsError, match="not readable"):
            net.load(nothing)


class Code:
    """Unpickling it would run something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


@each_net
def test_code_in_a_file_is_never_run(net: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(net.file)
    for zipped in (True, False):
        save_pickled(
            {**net.nested(hollow(net)), "hyper_parameters": Code()}, path, _use_new_zipfile_serialization=zipped
        )
        with pytest.raises(WeightsError, match="not readable as") as raised:
            net.load(path)
        assert "nothing in it was run" in str(raised.value)
        assert "weights_only" not in "".join(traceback.format_exception(raised.value))  # torch says how to run it
    assert not Path("ran").exists()


@each_net
def test_a_torchscript_is_told_from_weights(net: Published, tmp_path: Path) -> None:
    path = tmp_path / net.file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scripting is
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    with pytest.raises(WeightsError, match="a TorchScript, which is a program"):
        net.load(path)


def test_a_trainers_own_objects_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "emoca.ckpt"
    save_pickled({"state_dict": {}, "hyper_parameters": Code()}, path)
    with pytest.raises(WeightsError, match=r"objects of a training program.*safetensors\.torch\.save_file"):
        load_emoca(path)
    save_pickled([torch.zeros(1)], path)
    with pytest.raises(WeightsError, match="holds a list, expected a dictionary of tensors"):
        load_emoca(path)
    save_pickled({"a.b": torch.zeros(1), "a": {"b": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match=r"two ways lead to a\.b"):
        load_deca(path)
    save_pickled({"E_flame": {"x": torch.zeros(1).to_sparse()}}, path)
    with pytest.raises(WeightsError):
        load_deca(path)
