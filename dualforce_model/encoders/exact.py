"""Arithmetic that is what its precision says. On CUDA torch takes TF32 (10 bits of mantissa) for convolutions in fp32
unless it is told not to.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """No TF32 in convolutions nor in products of matrices, and the same kernels each time; what was set comes back."""
    products = torch.get_float32_matmul_precision()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(products)
