"""Files of torch as they were published of old. They are opened only where somebody vouches for them: here the test."""

from pathlib import Path
from typing import Any

from dualforce_model.pretrained.pins import pin_file


def save_pickled(content: Any, path: Path | str, **options: Any) -> Path:
    """What `torch.save` writes, pinned as `dualforce weights pin` does."""
    import torch

    torch.save(content, path, **options)
    return vouched(Path(path))


def vouched(path: Path) -> Path:
    """The file, pinned as it is now."""
    pin_file(path)
    return path
