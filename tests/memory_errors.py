"""What libraries raise when memory runs out, in their own words, and what looks alike and is something else."""

import errno

import cv2
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from dualforce_model.media import MediaError

ASYNCHRONOUS = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)
NODE = "Non-zero status code returned while running Conv node. Name:'/Conv' Status Message: "
ARENA = "bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "

OUT_OF_MEMORY: dict[str, Exception] = {
    "python": MemoryError("no more"),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"),
    "ray, by name": type("OutOfMemoryError", (Exception,), {})("Task was killed due to the node running low on memory"),
    "a part of torch's, by name": type("Mine", (torch.OutOfMemoryError,), {})("full"),
    "CUDA, beside torch's allocator": torch.AcceleratorError(f"CUDA error: out of memory{ASYNCHRONOUS}"),
    "the same in older releases": RuntimeError(f"CUDA error: out of memory{ASYNCHRONOUS}"),
    "CUDA's driver": RuntimeError("CUDA driver error: out of memory"),
    "TorchScript": RuntimeError(
        "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript (most recent call "
        "last):\nRuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB"
    ),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN up to 8": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cuDNN 9, host": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    "cuSOLVER": RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    "cuFFT": RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    "torch on a CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "C++": RuntimeError("std::bad_alloc"),
    "onnxruntime": Fail(f"[ONNXRuntimeError] : 1 : FAIL : {NODE}{ARENA}Failed to allocate memory for requested buffer"),
    "onnxruntime, its arena bounded": RuntimeException(
        f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {NODE}{ARENA}Available memory of 1024 is smaller than requested "
        "bytes of 4096"
    ),
    "onnxruntime without an arena": RuntimeException(
        f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {NODE}std::bad_alloc"
    ),
    "onnxruntime on a GPU": RuntimeException(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc"
    ),
    "OpenCV": cv2.error("OpenCV(4.14.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 70 bytes"),
}

LOST: dict[str, Exception] = {  # the GPU is of no more use to the process
    "illegal access": torch.AcceleratorError(f"CUDA error: an illegal memory access was encountered{ASYNCHRONOUS}"),
    "in words of its own": torch.AcceleratorError("an illegal memory access"),
    "assertion": RuntimeError(f"CUDA error: device-side assert triggered{ASYNCHRONOUS}"),
    "launch failure": torch.AcceleratorError(f"CUDA error: unspecified launch failure{ASYNCHRONOUS}"),
    "broken memory": torch.AcceleratorError(f"CUDA error: uncorrectable ECC error encountered{ASYNCHRONOUS}"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
}


def _made_of(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


OTHERS: dict[str, Exception] = {  # neither
    "a bug": ZeroDivisionError("of all things"),
    "a shape": RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    "onnxruntime": Fail(f"[ONNXRuntimeError] : 1 : FAIL : {NODE}Input channels C is not equal to kernel channels"),
    "a file": OSError(errno.ENOENT, "no such file", "CUDA error: out of memory.mp4"),
    "words that are quoted": ValueError("the caption 'CUDA error: out of memory' holds a colon"),
    # A damaged header asks the decoder for absurd amounts: its reader has made a fact of the file of it.
    "a fact made of it": _made_of(MediaError("over_limit", "a.mp4: asks for more memory than it may"), MemoryError()),
}
