"""What encoders have in common that find the face by its mesh, cut it out of every frame and ask a net for FLAME's
parameters.

Legend: T frames, b of them at once.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from pydantic import Field
from torch import Tensor, nn

from dualforce_model import flame
from dualforce_model.batching import BatchSize, in_batches
from dualforce_model.config import Frozen, digest
from dualforce_model.encoders.base import Modality, NoFaceError, or_no_face, sure
from dualforce_model.encoders.exact import exact_arithmetic
from dualforce_model.encoders.face_mesh import FaceMesh, FaceMeshConfig, MeshTrack
from dualforce_model.encoders.flame_rows import FlameTrack
from dualforce_model.layout import Layout
from dualforce_model.pretrained import Weights, weights_digest
from dualforce_model.weight_files import WeightsError


class FlameNetConfig(Frozen):
    """Settings of every encoder of FLAME parameters that has a net."""

    weights: Path | None = Field(None, description="the net's file or its folder; empty: see `dualforce weights list`")
    mesh: FaceMeshConfig = FaceMeshConfig()
    batch_frames: int = Field(
        16, ge=1, le=1024, description="frames that the net sees at once; fewer where memory runs out"
    )


class Shown(NamedTuple):
    """A frame, and the face's mesh in it."""

    frame: UInt8[np.ndarray, "H W 3"]
    points: Float32[np.ndarray, "478 3"]


class Said(NamedTuple):
    """The net's answer, by the parts of the layout."""

    fields: dict[str, Float[Tensor, "b n"]]
    eyelids: Float[Tensor, "b 2"] | None


class FlameNet(ABC):
    """Frames to FLAME parameters [T,159]. Causal but for frames before the first face, which are given that one's."""

    name: ClassVar[str]
    version: ClassVar[int]
    weights: ClassVar[Weights]
    layout: ClassVar[Layout]
    modality: ClassVar[Modality] = "flame"
    config_type: ClassVar[type[Frozen]] = FlameNetConfig

    def __init__(self, config: FlameNetConfig | None = None) -> None:
        self._config = config or FlameNetConfig()
        self.path = self.weights.find(self._config.weights)
        self._mesh = FaceMesh(self._config.mesh)
        self._net: nn.Module | None = None
        self._device = "cpu"
        self._batch = BatchSize(self._config.batch_frames)

    @property
    def config(self) -> FlameNetConfig:
        """What this encoder was built with."""
        return self._config

    @property
    def num_features(self) -> int:
        """Entries per frame: 159."""
        return flame.NUM_PARAMETERS

    @property
    def weights_digest(self) -> str:
        """SHA-256 over those of the net's file and of the landmarker's."""
        both = f"{weights_digest(self.name, self.path)} {self._mesh.weights_digest}"
        return hashlib.sha256(both.encode()).hexdigest()

    def fingerprint(self) -> str:
        """32 hex digits over name, version, weights and config, without what decides no number."""
        settings = self._config.model_dump(mode="json", exclude={"weights": True, "batch_frames": True, "mesh": True})
        mesh = self._config.mesh.model_dump(mode="json", exclude={"weights"})
        return digest(self.name, self.version, self._mesh.version, settings, mesh, self.weights_digest)

    def load(self, device: str = "cpu") -> None:
        """Read the weights to a device of torch's; the mesh stays on the processor. Raises DamagedWeightsError."""
        if self._net is None:
            try:
                self._net = self._open(self.path)
            except WeightsError as error:
                raise self.weights.damaged(self.path, error) from error
            self._mesh.load()
        self._net.to(device)
        self._device = device

    def track(self, frames: UInt8[np.ndarray, "T H W 3"]) -> FlameTrack:
        """Parameters of every RGB frame; one picture is a clip of one frame. Raises NoFaceError."""
        return sure(self.many([frames])[0])

    def many(self, clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]]) -> list[FlameTrack | NoFaceError]:
        """The track of each clip, but for rounding, or why there is none; frames of all share passes of the net."""
        meshes = [or_no_face(self._mesh.track, frames) for frames in clips]
        followed = [
            (frames, mesh) for frames, mesh in zip(clips, meshes, strict=True) if not isinstance(mesh, NoFaceError)
        ]
        tracks = iter(self._tracks(followed))
        return [mesh if isinstance(mesh, NoFaceError) else next(tracks) for mesh in meshes]

    def __call__(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T 159"]:
        """`track`'s parameters alone."""
        return self.track(frames).parameters

    def _tracks(self, followed: Sequence[tuple[UInt8[np.ndarray, "_ _ _ 3"], MeshTrack]]) -> list[FlameTrack]:
        """What the net says of clips whose face is known. Pictures are cut out batch by batch."""
        if not followed:
            return []
        shown = [Shown(*each) for frames, mesh in followed for each in zip(frames, mesh.points, strict=True)]
        said = in_batches(self._batch, self._ask, shown)
        rows = self.layout.join({name: _joined([each.fields[name] for each in said]) for name in said[0].fields})
        lids = [each.eyelids for each in said if each.eyelids is not None]
        eyelids = _joined(lids) if lids else None
        tracks, begin = [], 0
        for frames, mesh in followed:
            its = slice(begin, begin + len(frames))
            tracks.append(FlameTrack(rows[its], None if eyelids is None else eyelids[its], mesh.seen))
            begin += len(frames)
        return tracks

    @torch.inference_mode()
    @exact_arithmetic()
    def _ask(self, shown: list[Shown]) -> Said:
        assert self._net is not None, "load() comes first"
        pictures = np.stack([self._picture(*each) for each in shown])
        given = torch.from_numpy(pictures).to(self._device).permute(0, 3, 1, 2)  # channels last: a quarter faster
        return self._read(self._net(given))

    @abstractmethod
    def _open(self, path: Path) -> nn.Module:
        """The net of a file. Raises WeightsError."""

    @abstractmethod
    def _picture(
        self, frame: UInt8[np.ndarray, "H W 3"], points: Float32[np.ndarray, "478 3"]
    ) -> Float32[np.ndarray, "224 224 3"]:
        """What the net sees of a frame, RGB, 0 to 1."""

    @abstractmethod
    def _read(self, said: Any) -> Said:
        """The net's answer by the layout's parts."""


def _joined(parts: list[Tensor]) -> Float32[np.ndarray, "T n"]:
    return np.asarray(torch.cat(parts).float().cpu().numpy())
