"""Frames a second of the studio's latent explorer, and the time of a draw, through the real server on this machine.

Every frame is what a page asks for while somebody drags: one code or noise as float32 by HTTP, one image back as plain
bytes. Wall time is what one waits here and now; the time of the processor says what a machine does that has nothing
else to do.

    python benchmarks/studio_frames.py runs/vae runs/gan runs/flow
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import torch
import uvicorn

from trilemma.studio.jobs import Queue
from trilemma.studio.room import Studio
from trilemma.studio.server import application, listen
from trilemma.studio.workspace import Workspace

FRAMES, DRAWS, FEW = 120, 8, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{given.threads} threads; {FRAMES} frames, {DRAWS} draws; wall: median; processor: mean over all threads")
    print(f"{'run':24} {'what':30} {'wall ms':>8} {'processor ms':>13} {'a second':>9}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        listener = listen("127.0.0.1", 0)
        studio = Studio(Workspace(home, [run.resolve() for run in given.runs]), Queue(home / "jobs", 1))
        server = uvicorn.Server(uvicorn.Config(application(studio), log_level="warning", access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        for run in given.runs:
            measure(listener, run.resolve().name)
        server.should_exit = True
        thread.join()


def measure(listener: socket.socket, key: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=120)

    def ask(path: str, body: bytes | None = None) -> bytes:
        connection.request("GET" if body is None else "POST", path, body)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content

    about = json.loads(ask(f"/api/play?{urlencode({'run': key})}"))
    if about["codes"]:
        code = np.random.default_rng(0).normal(size=about["dims"]).astype("<f4")
        steps = FEW if about["codes"] == "noise" else 0
        path = f"/api/play/decode?{urlencode({'run': key, 'steps': steps})}"
        timed(
            key,
            f"frame{f', {steps} steps' if steps else ''}",
            FRAMES,
            lambda i: ask(path, (code + i / FRAMES).tobytes()),
        )
    body = {"run": key, "n": about["n"]}
    path = "/api/play/draw?quick=1"
    timed(key, f"draw {about['n']}", DRAWS, lambda i: whole(ask(path, json.dumps({**body, "seed": i}).encode())))
    connection.close()


def whole(content: bytes) -> None:
    """The last part holds pictures."""
    head, size = struct.unpack_from("<II", content)
    assert size or len(content) > 8 + head


def timed(key: str, what: str, count: int, work) -> None:  # type: ignore[no-untyped-def]
    for i in range(3):
        work(i)
    walls, before = [], time.process_time()
    for i in range(count):
        began = time.perf_counter()
        work(i)
        walls.append(time.perf_counter() - began)
    wall, busy = float(np.median(walls)), (time.process_time() - before) / count
    print(f"{key:24} {what:30} {1000 * wall:8.1f} {1000 * busy:13.1f} {1 / wall:9.0f}", flush=True)


if __name__ == "__main__":
    main()
