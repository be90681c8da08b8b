"""This machine: its name and units, where it keeps what may be lost, and which arithmetic is quicker on it.

Whether bfloat16 pays cannot be read off a processor's name. Where it has matrix units (AMX, tensor cores) a network
trains twice as fast in it; where it has only the products (AVX-512 BF16) it may gain or lose a quarter; where it has
neither, PyTorch computes all the same, three to sixteen times as slowly. So both are timed, once.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.files import write_json

Arithmetic = Literal["bf16", "fp32"]

MARGIN = 0.8
"""bf16 is chosen if it takes at most this share of the time of fp32: it has to pay for its rounding."""

ROUNDS = 7
"""How often each arithmetic is timed, in turns."""

CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Environment variables that hide units of a processor."""

_chosen: dict[str, Arithmetic] = {}  # by `fingerprint`, for this process


def cache_folder() -> Path:
    """``$TRILEMMA_CACHE``, or ``~/.cache/trilemma``. Nothing in it is ever needed: it may be deleted at any time."""
    return Path(os.environ.get("TRILEMMA_CACHE") or Path.home() / ".cache" / "trilemma")


def processor() -> str:
    """The processor by name."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def units() -> str:
    """The vector and matrix units of the processor that PyTorch may use: ``avx2``, ``avx512 avx512_bf16 amx``."""
    cap = next((os.environ[name].upper() for name in CAPS[:2] if os.environ.get(name)), "ALL")
    names = [torch.backends.cpu.get_cpu_capability().lower()]
    for name, found, caps in (
        ("avx512_bf16", "_is_avx512_bf16_supported", ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")),
        ("amx", "_is_amx_tile_supported", ("ALL", "DEFAULT", "AMX")),
    ):
        if getattr(torch.cpu, found, lambda: False)() and any(part in cap for part in caps):
            names.append(name)
    return " ".join(names)


def quicker(device: torch.device) -> Arithmetic:
    """The arithmetic that networks compute in on this device unless they are told: bf16 if that is clearly faster.

    Both are timed once for each machine, version of PyTorch and cap on the processor's units, in well under a second,
    and what was found is kept in the cache folder. A cache that cannot be read or written costs another timing.
    """
    key = fingerprint(device)
    if key not in _chosen:
        _chosen[key] = _read(key) or _measured(device, key)
    return _chosen[key]


def described(device: torch.device | str = "cpu") -> str:
    """What a speed was measured with: processor, units, version, threads and arithmetic in one line."""
    device = torch.device(device)
    version, threads = torch.__version__, torch.get_num_threads()
    return f"{_name(device)}, torch {version}, {threads} threads, networks in {quicker(device)}"


def arithmetic(device: torch.device, precision: str) -> Arithmetic:
    """What a ``precision`` means on a device: ``bf16``, ``fp32``, or ``auto`` for the one that is quicker there."""
    return quicker(device) if precision == "auto" else "bf16" if precision == "bf16" else "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """A forward pass in the `arithmetic` of this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=arithmetic(device, precision) == "bf16")


def settle(device: torch.device, choice: Arithmetic) -> None:
    """Let `quicker` say ``choice`` for this device as long as this process lives: what the first of many found."""
    _chosen[fingerprint(device)] = choice


def fingerprint(device: torch.device) -> str:
    """What the speed of an arithmetic depends on, in words."""
    caps = [f"{name}={os.environ[name]}" for name in CAPS if os.environ.get(name)]
    return ", ".join([device.type, _name(device), f"torch {torch.__version__}", *caps])


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()} ({units()})"


def times(device: torch.device) -> dict[Arithmetic, float]:
    """Seconds that a forward and a backward pass of two small convolutions takes in each arithmetic.

    On one thread of the CPU: threads that wait for each other on a busy machine would time its other work. The two take
    turns, and the best of `ROUNDS` counts, because such work only ever adds time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False):  # a sampler may be the first to ask
            return _times(device)
    finally:
        torch.set_num_threads(threads)


def _times(device: torch.device) -> dict[Arithmetic, float]:
    large = device.type == "cuda"
    count, maps, side = (128, 128, 32) if large else (16, 48, 14)
    x = _ramp((count, maps, side, side), device).contiguous(memory_format=torch.channels_last)
    weights = [
        _ramp((maps, maps, 3, 3), device).contiguous(memory_format=torch.channels_last).requires_grad_() for _ in "ab"
    ]
    best: dict[Arithmetic, float] = {"bf16": float("inf"), "fp32": float("inf")}
    for turn in range(ROUNDS + 1):
        for arithmetic in best:
            _finish(device)
            began = time.perf_counter()
            with torch.enable_grad():
                with torch.autocast(device.type, torch.bfloat16, enabled=arithmetic == "bf16"):
                    y = F.conv2d(F.silu(F.conv2d(x, weights[0], padding=1)), weights[1], padding=1)
                torch.autograd.grad(y.float().square().mean(), weights)
            _finish(device)
            if turn:  # the first one compiles and allocates
                best[arithmetic] = min(best[arithmetic], time.perf_counter() - began)
        if best["bf16"] > 3 * best["fp32"] < float("inf"):
            break  # no noise undoes that, and a slow machine need not wait for it
    return best


def _ramp(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Values in [-0.1, 0.1] without a random generator, none of which is subnormal."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count, device=device) % 23 - 11.5) / 115).reshape(shape)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _measured(device: torch.device, key: str) -> Arithmetic:
    if device.type not in ("cpu", "cuda"):
        return "fp32"
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32"
    found = times(device)
    choice: Arithmetic = "bf16" if found["bf16"] <= MARGIN * found["fp32"] else "fp32"
    _write(key, {"arithmetic": choice} | {f"{name}_ms": round(1e3 * taken, 3) for name, taken in found.items()})
    return choice


def _kept() -> dict[str, Any]:
    """All that is known of this and other machines; nothing where the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((cache_folder() / "arithmetic.json").read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    return {}


def _read(key: str) -> Arithmetic | None:
    entry = _kept().get(key)
    choice = entry.get("arithmetic") if isinstance(entry, dict) else None
    return choice if choice in ("bf16", "fp32") else None


def _write(key: str, entry: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        write_json(cache_folder() / "arithmetic.json", _kept() | {key: entry})
