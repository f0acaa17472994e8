"""`i3d_torchscript.pt`: I3D as a program of torch, with weights of its own.

A TorchScript runs code, so a file is opened only where every byte of it is known: its digest is checked first, and
what was checked is what is run.
"""

import hashlib
import io
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from dualforce_model.encoders.i3d.clips import chunks
from dualforce_model.encoders.i3d.net import NUM_FEATURES
from dualforce_model.pretrained import PRETRAINED
from dualforce_model.weight_files import WeightsError

SCRIPT_SHA256 = str(PRETRAINED["i3d_torchscript"].files[0].sha256)
MAX_BYTES = 256 << 20  # five times the published file; it is read whole


class ScriptedI3D:
    """Clips to 400 numbers each, as most published Frechet Video Distances were made."""

    name: ClassVar[str] = "i3d_torchscript"

    def __init__(self, script: torch.jit.ScriptModule, path: Path) -> None:
        self._script, self._path = script.eval(), path

    def to(self, device: torch.device) -> "ScriptedI3D":
        """The same net with its weights on a device."""
        return ScriptedI3D(self._script.to(device), self._path)

    @torch.inference_mode()
    def features(self, clips: UInt8[np.ndarray, "n T H W 3"]) -> Float32[np.ndarray, "n 400"]:
        """Features of RGB clips of any size (published distances: 16 frames). The program resizes and scales."""
        device = next(iter(self._script.parameters())).device
        found = []
        for chunk in chunks(clips):
            x = chunk.to(device).permute(0, 4, 1, 2, 3).float()  # 0 to 255
            features = self._script(x, rescale=True, resize=True, return_features=True).float().cpu()
            if features.shape != (len(chunk), NUM_FEATURES):
                raise WeightsError(
                    f"{self._path}: gives {list(features.shape)} for {len(chunk)} clips, expected "
                    f"[{len(chunk)}, {NUM_FEATURES}]; take i3d_torchscript.pt"
                )
            found.append(features)
        return torch.cat(found).numpy()


def load_i3d_script(path: Path, sha256: str = SCRIPT_SHA256) -> ScriptedI3D:
    """The program of a file whose digest is that of `i3d_torchscript.pt`, or of another one that you trust.

    Raises WeightsError, before anything of it is run, for any other file.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise WeightsError(f"{path}: not readable: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        found = f"more than {MAX_BYTES} bytes" if len(content) > MAX_BYTES else f"SHA-256 {digest}"
        raise WeightsError(
            f"{path}: {found}, expected SHA-256 {sha256}; a TorchScript runs code, so that no other file is opened: "
            "download it again, or take i3d_pretrained_400.pt"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch.jit.load.*", DeprecationWarning)
            script = torch.jit.load(io.BytesIO(content), map_location="cpu")
    except RuntimeError as error:
        raise WeightsError(f"{path}: its digest is right, but torch cannot read it as TorchScript: {error}") from error
    return ScriptedI3D(script, path)
