"""``emova demo``: the demo in a browser."""

from __future__ import annotations

import argparse
import os
import socket
import threading
import webbrowser
from typing import TYPE_CHECKING

from emova.cli.common import add_backend, add_common, assistant_config, progress
from emova.core.errors import InputError
from emova_app.addresses import is_loopback

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

PASSWORD = "EMOVA_DEMO_PASSWORD"


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(
        parser,
        """
emova demo
emova demo --port 8000 --open""",
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="where it listens (%(default)d)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help=f"%(default)s; where others reach it, it needs a password in {PASSWORD}, and HTTPS for the microphone",
    )
    parser.add_argument(
        "--pages-per-address",
        type=int,
        default=4,
        metavar="N",
        help="of 8 pages that are open at once; raise it where visitors share an address (%(default)d)",
    )
    add_backend(parser)
    parser.add_argument("--open", action="store_true", help="open the page in the default browser")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    host, port, password = arguments.host, arguments.port, os.environ.get(PASSWORD)
    if not is_loopback(host) and not password:
        raise InputError(f"--host {host}: others could reach the demo; set a password in {PASSWORD}, or leave --host")
    if not 1 <= arguments.pages_per_address <= 8:
        raise InputError(f"--pages-per-address {arguments.pages_per_address}: give a number between 1 and 8")
    _check_port(host, port)
    try:
        import gradio  # noqa: F401
        import uvicorn
    except ModuleNotFoundError:
        raise InputError("the demo: packages are missing; run pip install 'emova[demo]'") from None
    from emova.core.process import few_heaps
    from emova_app.demo.page import DemoConfig, build_app

    few_heaps()
    with progress(arguments) as tell:
        tell(f"Loading {arguments.model}")
        from emova.assistant import Assistant

        assistant = Assistant.from_pretrained(arguments.model, config=assistant_config(arguments))
        tell("Building the page")
        config = DemoConfig(max_pages_of_one=arguments.pages_per_address)
        app = build_app(assistant, config=config, hosts=() if is_loopback(host) else ("*",), password=password)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"emova demo on {address} (Ctrl+C ends it)", flush=True)
    if arguments.open:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    uvicorn.Server(server_settings(app, host, port)).run()
    return 0


def server_settings(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """How the demo is served: connections bounded as the server's are, a client is who connects, whatever it says."""
    import uvicorn

    from emova_app.server.config import ServerConfig
    from emova_app.server.http.connections import Connections
    from emova_app.server.running import bounded_protocols

    limits = ServerConfig()
    http, websocket = bounded_protocols(Connections(limits.max_connections, limits.max_connections_per_address), limits)
    # Open pages hold a connection for their sound; they are given a few seconds to end.
    return uvicorn.Config(
        app, host=host, port=port, http=http, ws=websocket, proxy_headers=False, log_level="warning",
        timeout_graceful_shutdown=3,
    )  # fmt: skip


def _check_port(host: str, port: int) -> None:
    """See that the port is free, before the long work. Raises: InputError."""
    if not 0 < port < 65536:
        raise InputError(f"--port {port}: no port; choose one between 1 and 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise InputError(f"--port {port}: it is in use or not allowed; choose another one") from None
