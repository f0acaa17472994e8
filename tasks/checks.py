"""What works on this machine: each check does a small real thing and says what it found."""

import importlib
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dualforce_model.config import Frozen
from tasks.tables import table

# import name -> distribution name; the ones whose failure is not obvious until much later
PACKAGES = {
    "torch": "torch",
    "diffusers": "diffusers",
    "accelerate": "accelerate",
    "prefect": "prefect",
    "ray": "ray",
    "av": "av",
    "cv2": "opencv-python",
    "yt_dlp": "yt-dlp",
    "pyarrow": "pyarrow",
    "safetensors": "safetensors",
}
FREE_GIB = 5.0


class Check(Frozen):
    """One thing that was tried."""

    name: str
    passed: bool
    found: str


class CheckReport(Frozen):
    """All of them."""

    checks: tuple[Check, ...]
    failed_clips: int = 0

    @property
    def problems(self) -> tuple[Check, ...]:
        """Checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def text(self) -> str:
        """For people."""
        rows = [(check.name, "ok" if check.passed else "PROBLEM", check.found) for check in self.checks]
        return table(("check", "", "found"), rows)


def machine_checks() -> CheckReport:
    """Interpreter, packages, codec, Prefect's server, disk, accelerator."""
    checks = [_attempt("python", _python)]
    checks += [_attempt(name, partial(_package, name)) for name in PACKAGES]
    checks += [
        _attempt("codec", _codec),
        _attempt("cascade", _cascade),
        _attempt("prefect server", _prefect_server),
        _attempt("disk", _disk),
        _attempt("accelerator", _accelerator),
    ]
    return CheckReport(checks=tuple(checks))


def _attempt(name: str, check: Callable[[], str]) -> Check:
    """Run one check; whatever it raises is what was found."""
    try:
        return Check(name=name, passed=True, found=check())
    except Exception as error:  # the report is the handler: every kind of failure is a finding
        return Check(name=name, passed=False, found=f"{type(error).__name__}: {error}")


def _python() -> str:
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        raise RuntimeError(f"{platform.python_version()}; 3.11 or 3.12 is needed, 3.11 is what is tested")
    return platform.python_version()


def _package(name: str) -> str:
    importlib.import_module(name)
    return importlib.metadata.version(PACKAGES[name])


def _codec() -> str:
    from dualforce_model.media import read_frames, read_sound, write_video

    frames = [np.full((64, 64, 3), 10 * shade, np.uint8) for shade in range(25)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.mp4"
        write_video(path, frames, np.zeros(16_000, np.float32))
        back, sound = list(read_frames(path)), read_sound(path)
    if len(back) != len(frames) or len(sound) != 16_000:
        raise RuntimeError(f"wrote 25 frames and 16000 samples, read {len(back)} and {len(sound)}")
    return "H.264 and AAC, written and read back"


def _cascade() -> str:
    from dualforce_model.encoders.cascade import detect_faces

    detect_faces(np.zeros((64, 64), np.uint8), 24)
    return "OpenCV's face cascade loads"


def _prefect_server() -> str:
    from prefect.server.api.server import create_app

    create_app()
    return "the server's application builds"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < FREE_GIB:
        raise RuntimeError(f"{free:.1f} GiB free here; the demo alone wants {FREE_GIB:.0f}")
    return f"{free:.0f} GiB free here"


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none; tiny models train on the CPU"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
