"""What a raw pointer may be taken of: the checks every tensor passes before a kernel touches its memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


def refusal(t: Tensor, like: Tensor | None = None) -> str:
    """Why a kernel may not read this tensor's memory element by element, or an empty string.

    With `like`, it must also have that tensor's device, shape and strides.
    """
    if type(t) not in PLAIN_TYPES:
        return f"is a tensor subclass ({type(t).__name__})"
    if t.layout is not torch.strided:
        return f"has layout {t.layout}"
    if torch._C._functorch.is_functorch_wrapped_tensor(t):
        return "is wrapped by a function transform"
    if t.is_conj() or t.is_neg():
        return "is a conjugate or negative view"
    if t.is_inference():
        return "is an inference tensor"
    if t.data_ptr() == 0 and t.numel():
        return "has no memory of its own"
    if like is None:
        return "" if is_dense(t.shape, t.stride()) else "is not dense in memory"
    if t.device != like.device:
        return f"is on {t.device}, the parameter on {like.device}"
    if t.shape != like.shape:
        return f"has shape {tuple(t.shape)}, the parameter {tuple(like.shape)}"
    if not same_strides(t.shape, t.stride(), like.stride()):
        return f"has strides {t.stride()}, the parameter {like.stride()}"
    return ""


def impossible(p: Tensor, g: Tensor) -> str:
    """Why nothing can step this parameter with this gradient, or an empty string."""
    if g.shape != p.shape:
        return f"the gradient has shape {tuple(g.shape)}, the parameter {tuple(p.shape)}"
    if not (p.is_floating_point() or p.is_complex()) or (p.is_floating_point() and p.element_size() == 1):
        return f"there is no arithmetic for parameters of {p.dtype}"
    if g.is_complex() and not p.is_complex():
        return f"the gradient is {g.dtype}, the parameter {p.dtype}"
    if type(p) not in PLAIN_TYPES:
        return ""
    if p.is_inference() and not torch.is_inference_mode_enabled():
        return "Inplace update to inference tensor outside InferenceMode is not allowed"
    if p.layout is torch.strided and p.device.type in ("cpu", "cuda"):
        if p.numel() and p.data_ptr() == 0:
            return "the parameter has no memory"
        if torch._debug_has_internal_overlap(p) == 1:
            return f"the parameter has several elements in one place (strides {p.stride()}); clone it first"
    return ""


def refusal_of_shape(t: Tensor, like: Tensor, shape: Sequence[int]) -> str:
    """Why a kernel may not read this tensor as one of that shape, or an empty string: it must be contiguous."""
    if reason := refusal(t):
        return reason
    if t.device != like.device:
        return f"is on {t.device}, the parameter on {like.device}"
    if tuple(t.shape) != tuple(shape):
        return f"has shape {tuple(t.shape)} and not {tuple(shape)}"
    return "" if t.is_contiguous() else f"has strides {t.stride()}"


def same_strides(shape: Sequence[int], a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether both strides put every element at the same place; a dimension of size 1 has no say."""
    return all(n == 1 or x == y for n, x, y in zip(shape, a, b, strict=True))


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements fill one stretch of memory, each cell once, in whatever order."""
    expected = 1
    for stride, size in sorted((s, n) for n, s in zip(shape, strides, strict=True) if n != 1):
        if stride != expected:
            return 0 in shape
        expected *= size
    return True


def overlapping(owners: Iterable[tuple[int, Sequence[Tensor]]]) -> set[int]:
    """Those owners whose tensors share memory with another tensor in the list, or with another of their own.

    Of a tensor with gaps the whole stretch counts, from its first element to its last.
    """
    spans = sorted((*_span(t), owner) for owner, tensors in owners for t in tensors if t.numel() and _has_address(t))
    guilty: set[int] = set()
    furthest, holder = 0, -1
    for start, end, owner in spans:
        if start < furthest:
            guilty |= {owner, holder}
        if end > furthest:
            furthest, holder = end, owner
    return guilty


def _has_address(t: Tensor) -> bool:
    return type(t) in PLAIN_TYPES and t.layout is torch.strided and t.device.type != "meta"


def _span(t: Tensor) -> tuple[int, int]:
    """The first address of a tensor and the one after its last."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()
