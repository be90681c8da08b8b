"""Work that takes long is a verb of the command line in a process of its own, and a file that says how it stands.

Closing the page, the server, or pulling the plug loses nothing: a job's file stands in ``jobs/``, its process runs on,
and the next studio finds both. A job that was cut off goes on from its last checkpoint when it is told to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trilemma.files import write_json
from trilemma.text import printable
from trilemma.validate import decode, read_json

Status = Literal["queued", "running", "paused", "done", "failed", "stopped"]

OVER: tuple[Status, ...] = ("done", "failed", "stopped")
KEPT = 200
"""Files of jobs that are over and still kept."""
TAIL = 4000
"""Bytes of a job's own words that are read for its last line."""


@dataclass(frozen=True)
class Job:
    """One verb, how it stands, and what follows it.

    Attributes:
        id: unguessable, and the name of its files.
        argv: what would be typed after ``trilemma``.
        title: for people.
        out: the key of what it makes or asks; ``group``: of jobs that belong together.
        then: verbs that follow when it is done or was stopped early on purpose.
        status: how it stands; ``wanted``: what a person last asked of it.
        line: its last words, or why it failed.
    """

    id: str
    argv: tuple[str, ...]
    title: str
    out: str = ""
    group: str = ""
    then: tuple[tuple[str, ...], ...] = ()
    status: Status = "queued"
    wanted: Literal["run", "pause", "stop"] = "run"
    made: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    pid: int = 0
    line: str = ""

    @property
    def command(self) -> str:
        """What would do the same in a terminal."""
        return shlex.join(("trilemma", *self.argv))


@dataclass
class Queue:
    """The jobs of a studio, of which ``slots`` run at a time.

    Attributes:
        folder: where their files are.
        slots: how many run side by side; each has its share of the processor's cores.
    """

    folder: Path
    slots: int = 1
    _jobs: dict[str, Job] = field(default_factory=dict)
    _own: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def open(self) -> None:
        """Read what is there, take up what still runs, and begin to work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(ValueError):  # a damaged file is of no job
                job = decode(Job, read_json(file), str(file))
                self._jobs[job.id] = job
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking after the jobs; those that run go on and are found again."""
        self._over.set()
        if self._thread:
            self._thread.join()

    def add(
        self,
        argv: Sequence[str],
        title: str,
        *,
        out: str = "",
        group: str = "",
        then: Sequence[Sequence[str]] = (),
    ) -> Job:
        """Put a verb into the queue."""
        job = Job(
            secrets.token_hex(8),
            tuple(argv),
            title,
            out,
            group,
            tuple(tuple(each) for each in then),
            made=time.time(),
        )
        with self._lock:
            self._keep(job)
        return job

    def jobs(self) -> list[Job]:
        """All of them, the oldest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.made)

    def job(self, key: str) -> Job:
        """One; one-line ``ValueError`` where there is none of that id."""
        with self._lock:
            if key not in self._jobs:
                raise ValueError(f"there is no job {key[:40]!r}")
            return self._jobs[key]

    def pause(self, key: str) -> Job:
        """Let it save and stop, to go on later."""
        return self._ask(key, "pause")

    def stop(self, key: str) -> Job:
        """Let it save and stop for good: what follows it comes next."""
        return self._ask(key, "stop")

    def resume(self, key: str) -> Job:
        """Let a job that was paused, failed or cut off go on from where it was."""
        with self._lock:
            job = self.job(key)
            if job.status in ("paused", "failed", "stopped"):
                (self.folder / f"{job.id}.exit").unlink(missing_ok=True)
                self._keep(job := replace(job, status="queued", wanted="run", line=""))
            return job

    def words(self, job: Job) -> str:
        """The last line that it said."""
        try:
            with (self.folder / f"{job.id}.log").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return job.line
        return printable(next((line.strip() for line in reversed(lines) if line.strip()), job.line))

    def _ask(self, key: str, wanted: Literal["pause", "stop"]) -> Job:
        with self._lock:
            job = self.job(key)
            if job.status == "queued":
                job = replace(job, status="paused" if wanted == "pause" else "stopped", wanted=wanted)
                if wanted == "stop":
                    job = replace(job, ended=time.time())
            elif job.status == "running":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGTERM)
                job = replace(job, wanted=wanted)
            elif job.status == "paused" and wanted == "stop":
                job = replace(job, status="stopped", wanted=wanted, ended=time.time())
                self._follow(job)
            self._keep(job)
            return job

    def _keep(self, job: Job) -> None:
        self._jobs[job.id] = job
        write_json(self.folder / f"{job.id}.json", asdict(job))

    def _work(self) -> None:
        while not self._over.wait(0.3):
            with self._lock:
                for job in [job for job in self._jobs.values() if job.status == "running"]:
                    self._look_at(job)
                running = sum(job.status == "running" for job in self._jobs.values())
                waiting = [job for job in self.jobs() if job.status == "queued"]
                for job in waiting[: max(0, self.slots - running)]:
                    self._start(job)
                self._tidy()

    def _start(self, job: Job) -> None:
        threads = max(1, (os.cpu_count() or 1) // self.slots)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with (
            (self.folder / f"{job.id}.lock").open("a", encoding="utf-8") as held,
            (self.folder / f"{job.id}.log").open("ab") as log,
        ):
            # The lock is the child's as long as it lives, whatever becomes of this process.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process = subprocess.Popen(
                [sys.executable, "-m", "trilemma.studio.worker", str(self.folder / f"{job.id}.exit"), *job.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(held.fileno(),),
                start_new_session=True,
            )
        self._own[job.id] = process
        self._keep(replace(job, status="running", began=job.began or time.time(), pid=process.pid))

    def _look_at(self, job: Job) -> None:
        process = self._own.get(job.id)
        if process is not None and process.poll() is None:
            return
        if process is None and self._alive(job):
            return
        self._own.pop(job.id, None)
        try:
            code = int((self.folder / f"{job.id}.exit").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            code = -1  # it was killed
        status: Status = "done" if code == 0 else "failed"
        if code in (130, 143, 129, -1) and job.wanted != "run":
            status = "paused" if job.wanted == "pause" else "stopped"
        elif code in (130, 143, 129, -1):
            status = "paused"  # somebody else stopped it: it goes on when it is told to
        line = "" if status == "done" else self.words(job)
        job = replace(job, status=status, ended=time.time(), line=line)
        self._keep(job)
        if status == "done" or (status == "stopped" and job.wanted == "stop"):
            self._follow(job)

    def _follow(self, job: Job) -> None:
        for i, argv in enumerate(job.then):
            title = f"{argv[0]} {job.out}"
            self._keep(Job(secrets.token_hex(8), argv, title, job.out, job.group, made=time.time() + i * 1e-3))

    def _alive(self, job: Job) -> bool:
        try:
            with (self.folder / f"{job.id}.lock").open("a", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _tidy(self) -> None:
        over = sorted((job for job in self._jobs.values() if job.status in OVER), key=lambda job: job.ended)
        for job in over[: max(0, len(over) - KEPT)]:
            del self._jobs[job.id]
            for suffix in ("json", "log", "lock", "exit"):
                (self.folder / f"{job.id}.{suffix}").unlink(missing_ok=True)


def described(queue: Queue, job: Job) -> dict[str, Any]:
    """A job as the page shows it."""
    words = queue.words(job) if job.status in ("running", "failed") else job.line
    plain = {"id": job.id, "title": job.title, "out": job.out, "group": job.group, "status": job.status}
    return plain | {"line": words, "command": job.command, "verb": job.argv[0], "made": job.made, "began": job.began}
