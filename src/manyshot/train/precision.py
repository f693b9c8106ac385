"""Which precision is fast on a device."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch

from manyshot.recipe import OptimiserSettings

Settings = TypeVar("Settings", bound=OptimiserSettings)


def settled(settings: Settings, device: torch.device) -> Settings:
    """Settings with what their precision comes to on a device, if that is `auto`."""
    if settings.precision != "auto":
        return settings
    return settings.model_copy(update={"precision": fast_precision(device)})


def fast_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """bfloat16 where it is multiplied by units made for that, else single precision.

    These are tensor cores of a GPU, and AMX of a processor, as far as torch says what that has.
    """
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # not in torch 2.9
        has_units = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    else:
        has_units = False
    return "bf16" if has_units else "fp32"


def said_of_precision(settings: OptimiserSettings, device: torch.device) -> str:
    """That a device has no units for the precision that was asked for; else empty.

    For bfloat16 that is said of processors of which torch knows that they have neither AMX nor
    AVX-512 for it, which is then computed in single precision and rounded, operation by operation.
    """
    if settings.precision == "tf32" and device.type == "cpu":
        return "precision = 'tf32' is for GPUs, and on the CPU the same as 'fp32': leave it out"
    if settings.precision != "bf16" or device.type != "cpu":
        return ""
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if has.get("amx_bf16", True) or has.get("avx512_bf16", True):
        return ""
    return (
        "precision = 'bf16' is several times slower than 'fp32' on this machine, whose processor "
        "has no units for it (no amx_bf16, no avx512_bf16): say precision = 'auto', which is bf16 "
        "only where there are such units, or 'fp32'"
    )
