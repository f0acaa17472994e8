"""Encoders of FLAME parameters from pixels to rows, with nets of random weights; what decides their fingerprints."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from dualforce_model import flame
from dualforce_model.config import ConfigError
from dualforce_model.encoders import Encoder, make_encoder
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.encoders.deca import Deca, DecaNet, landmarks_68
from dualforce_model.encoders.face_mesh import FaceMesh, FaceMeshConfig
from dualforce_model.encoders.flame_crops import deca_picture, smirk_picture
from dualforce_model.encoders.flame_net import FlameNet
from dualforce_model.encoders.smirk import Smirk, SmirkNet
from dualforce_model.pretrained import DamagedWeightsError, MissingWeightsError, UntrustedWeightsError
from tests.pickled import save_pickled, vouched
from tests.unit.dualforce_model.encoders.tiny import make_scarce

FRAMES = 3
MakeOf = Callable[..., FlameNet]


@pytest.fixture(scope="module")
def smirk_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net of random weights, as the published file has them."""
    path = tmp_path_factory.mktemp("smirk") / "SMIRK_em1.pt"
    save_pickled({f"smirk_encoder.{name}": each for name, each in drawn(SmirkNet).state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def smirk_of(shared: Path, smirk_file: Path) -> MakeOf:
    pytest.importorskip("mediapipe")

    def make(**settings: object) -> Smirk:
        mesh = {"weights": shared / "models", **dict(settings.pop("mesh", {}))}  # type: ignore[call-overload]
        made: Smirk = make_encoder("smirk", {"weights": smirk_file, "mesh": mesh, **settings})
        return made

    return make


@pytest.fixture(scope="module")
def smirk(smirk_of: MakeOf) -> FlameNet:
    return loaded(smirk_of(batch_frames=2))


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    portrait = np.ascontiguousarray(data.astronaut())
    return np.stack([np.roll(portrait, 3 * index, axis=1) for index in range(FRAMES)])


def drawn(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


def loaded(encoder: FlameNet) -> FlameNet:
    try:
        encoder.load()
    except ConfigError as error:  # a system library is missing
        pytest.skip(str(error))
    return encoder


def test_rows_are_the_nets_numbers_of_every_frames_own_crop(smirk: FlameNet, clip: np.ndarray, shared: Path) -> None:
    assert isinstance(smirk, Encoder)
    track = smirk.track(clip)
    assert track.parameters.shape == (FRAMES, smirk.num_features)
    assert track.parameters.dtype == np.float32
    assert track.seen.all()
    mesh = FaceMesh(FaceMeshConfig(weights=shared / "models"))
    mesh.load()
    points = mesh.track(clip).points
    with torch.inference_mode():
        pictures = torch.from_numpy(np.stack([smirk_picture(*each) for each in zip(clip, points, strict=True)]))
        said = drawn(SmirkNet)(pictures.permute(0, 3, 1, 2))
    for name, wanted in (
        ("shape", said.shape[:, :100]),
        ("expression", said.expression),
        ("pose", said.pose),
        ("jaw", said.jaw),
        ("camera", said.camera),
    ):
        np.testing.assert_allclose(track.parameters[:, flame.LAYOUT[name]], wanted.numpy(), atol=1e-5)
    assert track.eyelids is not None
    np.testing.assert_allclose(track.eyelids, said.eyelids.numpy(), atol=1e-5)
    assert np.ptp(track.parameters[:, flame.LAYOUT["camera"]], axis=0).max() > 0


def test_how_many_frames_are_seen_at_once_decides_nothing(smirk: FlameNet, smirk_of: MakeOf, clip: np.ndarray) -> None:
    other = loaded(smirk_of(batch_frames=64))
    assert other.fingerprint() == smirk.fingerprint()
    rows = smirk(clip)
    np.testing.assert_allclose(other(clip), rows, atol=1e-5)
    np.testing.assert_allclose(smirk(clip[:1]), rows[:1], atol=1e-5)  # what comes later changes nothing


def test_frames_that_do_not_fit_are_halved_and_no_tf32_is_at_work(
    smirk: FlameNet, smirk_of: MakeOf, clip: np.ndarray
) -> None:
    other, seen = loaded(smirk_of(batch_frames=64)), set()
    assert other._net is not None
    sizes = make_scarce(other._net, 2)
    other._net.register_forward_pre_hook(lambda *_: seen.add(torch.backends.cudnn.allow_tf32))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        np.testing.assert_allclose(other(clip), smirk(clip), atol=1e-5)
    assert seen == {False}
    assert sizes == [1] * FRAMES


def test_the_fingerprint_is_of_both_weights_and_of_what_decides_numbers(
    smirk_of: MakeOf, smirk_file: Path, tmp_path: Path
) -> None:
    first = smirk_of()
    moved = tmp_path / "SMIRK_em1.pt"
    moved.write_bytes(smirk_file.read_bytes())
    vouched(moved)
    assert smirk_of(weights=tmp_path).fingerprint() == first.fingerprint()
    assert smirk_of(mesh={"min_score": 0.4}).fingerprint() != first.fingerprint()
    moved.write_bytes(b"other")
    with pytest.raises(
        UntrustedWeightsError, match=r"SHA-256 [0-9a-f]{64}; nobody has .* vouched for it here\. A pickled"
    ):
        smirk_of(weights=tmp_path).fingerprint()
    vouched(moved)
    assert smirk_of(weights=tmp_path).fingerprint() != first.fingerprint()
    assert len(first.weights_digest) == 64


def test_a_clip_without_a_face_is_told(smirk: FlameNet) -> None:
    with pytest.raises(NoFaceError, match="no face in any of 2 frames"):
        smirk.track(np.zeros((2, 64, 64, 3), np.uint8))


def test_frames_of_several_clips_share_passes_and_no_face_is_one_clip_s_own(smirk_of: MakeOf, clip: np.ndarray) -> None:
    encoder, darker = loaded(smirk_of(batch_frames=2)), clip[:1] // 2
    assert encoder._net is not None
    for part in encoder._net.modules():  # with biases all pictures are one to a net of noise
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
    alone = [encoder.track(clip), encoder.track(darker)]
    assert not np.allclose(alone[0].parameters[0], alone[1].parameters[0], rtol=1e-2, atol=0)
    sizes = make_scarce(encoder._net, 2)
    first, lacking, third = encoder.many([clip, np.zeros((2, 64, 64, 3), np.uint8), darker])
    assert sizes == [2, 2], "four frames that show a face"
    assert isinstance(lacking, NoFaceError)
    assert "no face in any of 2 frames" in str(lacking)
    for found, expected in zip((first, third), alone, strict=True):
        assert not isinstance(found, NoFaceError)
        np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-3, atol=1e-8)
        np.testing.assert_allclose(found.eyelids, expected.eyelids, rtol=1e-3, atol=1e-8)
        assert np.array_equal(found.seen, expected.seen)


@pytest.mark.parametrize(
    ("name", "file"), [("smirk", "SMIRK_em1.pt"), ("deca", "deca_model.tar"), ("emoca", "emoca.ckpt")]
)
def test_weights_that_are_not_there_or_damaged(name: str, file: str, shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    settings = {"weights": tmp_path, "mesh": {"weights": shared / "models"}}
    with pytest.raises(MissingWeightsError, match=f"{name} needs "):
        make_encoder(name, settings)
    save_pickled({"a": torch.zeros(1)}, tmp_path / file)
    with pytest.raises(DamagedWeightsError, match=rf"{file}: not a model that {name} can use: .* no "):
        make_encoder(name, settings).load()


def test_deca_sees_its_own_crop(shared: Path, clip: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    net = drawn(DecaNet)
    path = tmp_path / "deca_model.tar"
    save_pickled({"E_flame": net.get_submodule("E_flame").state_dict()}, path)
    deca: Deca = make_encoder("deca", {"weights": path, "mesh": {"weights": shared / "models"}})
    loaded(deca)
    path.unlink()
    mesh = FaceMesh(FaceMeshConfig(weights=shared / "models"))
    mesh.load()
    picture = deca_picture(clip[0], landmarks_68(mesh.track(clip[:1]).points[0]))
    with torch.inference_mode():
        said = net(torch.from_numpy(picture).permute(2, 0, 1)[None])
    track = deca.track(clip[:1])
    assert track.eyelids is None
    np.testing.assert_allclose(track.parameters[:, flame.LAYOUT["pose"]], said.pose.numpy(), atol=1e-5)
    np.testing.assert_allclose(track.parameters[:, flame.LAYOUT["expression"]], said.expression.numpy(), atol=1e-5)
    assert deca.layout.parts[0].source == "DECA"
