"""Where a server listens, and how it answers there: the same for the studio and for a study that is served alone."""

from __future__ import annotations

import socket

from starlette.types import ASGIApp


def loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return host in ("localhost", "::1") or host.startswith("127.")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the first free port from ``port`` on; one-line ``ValueError`` where there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for each in range(port, port + 20) if port else (0,):
        # By its protocol asyncio knows that answers must not wait for one another (TCP_NODELAY): 40 ms each otherwise.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, each))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            reason = error.strerror or str(error)
            if error.errno != 98 and "in use" not in reason:
                break
    raise ValueError(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port")


def answer(app: ASGIApp, listener: socket.socket) -> None:
    """Serve an application until a signal comes."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=512,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
    )
    uvicorn.Server(config).run(sockets=[listener])
