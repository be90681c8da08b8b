"""Devices, ranks and process groups.

``torchrun --nproc-per-node 2 -m trilemma train …`` starts several processes of the same command; each joins the
group here. Without torchrun there is one rank and nothing to synchronise.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trilemma.machine import quicker, settle

FAILED = "failed"
"""The key of the store under which processes that fail are counted."""

GRACE = 2.0
"""Seconds that a process has to end by itself after another one failed."""


@dataclass(frozen=True)
class Ranks:
    """This process among its siblings, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """The rows of a global batch that belong to this rank."""
        return range(total * self.rank // self.size, total * (self.rank + 1) // self.size)

    def agree(self, value: Any) -> Any:
        """The first rank's ``value``, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on some rank."""
        if self.size == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over ranks."""
        if self.size > 1:
            dist.all_reduce(values)
            values = values / self.size
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.size > 1:
            dist.barrier()


def find_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA, else MPS, else the CPU; any other name is taken as it is, if it is there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise ValueError(f"device {name!r} is not available here; use --device auto")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not available here: there are {torch.cuda.device_count()} CUDA devices")
    return device


@contextlib.contextmanager
def join(device: str = "auto") -> Iterator[Ranks]:
    """Join the process group that torchrun announces in the environment; leave it at the end.

    Where one process fails, the others end within seconds and without a word, so that one line says what happened.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():
        yield ranks(device)
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    where = find_device(device)
    if where.type == "cuda":
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    # A store of its own per restart: torchrun's elastic restarts otherwise meet the keys of the dead group.
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size,
        # torchrun's agent serves the store itself; other launchers leave that to the first rank.
        is_master=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        timeout=timedelta(minutes=10),
    )
    prefixed = dist.PrefixStore(  # type: ignore[attr-defined]
        "try" + os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store
    )
    # torch wishes for another word; both say that buffers are not sent in each step
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated")
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo", store=prefixed, rank=rank, world_size=size)
    done = threading.Event()
    # A connection of its own, where this torch can make one, so that the two threads do not wait for each other.
    watched: Any = getattr(prefixed, "clone", lambda: prefixed)()
    threading.Thread(target=_end_with_the_others, args=(watched, done), daemon=True).start()
    try:
        found = Ranks(rank, size, where)
        settle(where, found.agree(quicker(where) if found.first else None))
        yield found
    except BaseException as error:
        done.set()
        if not _first_to_fail(prefixed):
            raise SystemExit(1) from None  # the one that failed first says why
        if isinstance(error, RuntimeError) and any(name in str(error) for name in ("gloo", "NCCL")):
            raise Lost("another process of the group has ended; what was finished is saved") from None
        raise
    done.set()
    dist.destroy_process_group()


class Lost(RuntimeError):
    """Another process of the group was killed."""


def _first_to_fail(store: Any) -> bool:
    try:
        return bool(store.add(FAILED, 1) == 1)
    except RuntimeError:
        return False  # the store has gone with the process that held it


def _end_with_the_others(store: Any, done: threading.Event) -> None:
    """End this process soon after another of the group has failed: it may wait for that one, deaf to signals."""
    while not done.wait(0.5):
        try:
            failed = store.check([FAILED])
        except RuntimeError:
            failed = True
        if failed and not done.wait(GRACE):
            os._exit(1)


def ranks(device: str = "auto") -> Ranks:
    """This process in the group it has joined, or alone."""
    if dist.is_initialized():
        where = find_device(device)
        if where.type == "cuda":
            where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return Ranks(dist.get_rank(), dist.get_world_size(), where)
    return Ranks(0, 1, find_device(device))
