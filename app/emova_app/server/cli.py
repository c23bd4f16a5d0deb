"""``emova serve``: the assistant as an OpenAI-compatible server."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emova.cli.common import add_backend, assistant_config, engine_config
from emova.core.errors import InputError
from emova.core.io import shown

if TYPE_CHECKING:
    from emova.engine.engine import EngineConfig
    from emova_app.server.config import ServerConfig
    from emova_app.server.running import Server

DEFAULT_KEY = "EMOVA_API_KEY"


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = """examples:
  emova serve
  emova serve --model emova-nano --model runs/stage3/export
  emova serve --port 9000 --image-host upload.wikimedia.org
  emova serve --replicas 2 --max-replicas 4
  EMOVA_API_KEY=$(openssl rand -hex 24) emova serve --host 0.0.0.0"""
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="a shipped checkpoint or its folder (emova-nano); of several, a request says which by its model",
    )
    add_backend(parser)
    parser.add_argument(
        "--parallel", type=_sequences, default=4, metavar="N",
        help="sequences that llama.cpp decodes in one call; it keeps the memory of so many (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--api-key-env",
        default=DEFAULT_KEY,
        metavar="NAME",
        help="the environment variable with the key that clients must send (%(default)s)",
    )
    parser.add_argument("--api-key", default="", metavar="KEY", help="the key itself; others can see it in `ps`")
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin, such as https://example.org, whose web pages may ask (repeat for more; none by default)",
    )
    parser.add_argument(
        "--image-host",
        action="append",
        default=[],
        metavar="HOST",
        help="a host whose http(s) pictures may be fetched (repeat for more; none by default)",
    )
    parser.add_argument("--max-active", type=int, default=4, metavar="N", help="requests at once (%(default)s)")
    parser.add_argument("--max-waiting", type=int, default=28, metavar="N", help="requests that wait (%(default)s)")
    parser.add_argument("--max-realtime", type=int, default=8, metavar="N", help="realtime sessions (%(default)s)")
    parser.add_argument("--max-connections", type=int, default=256, metavar="N", help="open connections (%(default)s)")
    parser.add_argument(
        "--max-connections-per-address",
        type=int,
        default=128,
        metavar="N",
        help="open connections of one address; raise it behind a proxy (%(default)s)",
    )
    parser.add_argument(
        "--deadline", type=float, default=120.0, metavar="S", help="longest time of a request, in s (%(default)g)"
    )
    parser.add_argument(
        "--replicas",
        type=int,
        default=0,
        metavar="N",
        help="so many copies, each with the limits above, on Ray Serve (0: one, in this process)",
    )
    parser.add_argument(
        "--max-replicas", type=int, default=0, metavar="N", help="up to so many copies when they are busy (--replicas)"
    )
    parser.set_defaults(run=run)


def _sequences(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 32:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number of sequences between 1 and 32")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from emova.core.process import few_heaps
    from emova_app.server.config import ServerConfig

    for name in ("max_active", "max_realtime", "max_connections", "max_connections_per_address", "deadline"):
        if not 0 < getattr(arguments, name) <= 10_000:  # also refuses what is no number
            raise InputError(f"--{name.replace('_', '-')}: give a number above 0, up to 10000")
    if arguments.max_waiting < 0:
        raise InputError("--max-waiting: below 0")
    if (arguments.replicas or arguments.max_replicas) and not arguments.replicas >= 1:
        raise InputError("--replicas: give how many, at least 1")
    if not 0 <= arguments.port <= 65535:
        raise InputError(f"--port {arguments.port}: no port has this number; give one up to 65535")
    models = _named(arguments.model or ["emova-nano"])
    if len(models) > 1 and (arguments.replicas or arguments.gguf):
        option = "--replicas" if arguments.replicas else "--gguf"
        raise InputError(f"{option}: for one model; give a single --model")
    few_heaps()
    config = ServerConfig(
        host=arguments.host,
        port=arguments.port,
        api_key=arguments.api_key or os.environ.get(arguments.api_key_env, ""),
        model_name=next(iter(models)),
        allowed_origins=tuple(arguments.allow_origin),
        image_hosts=tuple(arguments.image_host),
        max_active=arguments.max_active,
        max_waiting=arguments.max_waiting,
        max_realtime=arguments.max_realtime,
        max_connections=arguments.max_connections,
        max_connections_per_address=arguments.max_connections_per_address,
        deadline_seconds=arguments.deadline,
    )
    try:
        from emova_app.server.running import listen
    except ModuleNotFoundError:
        raise InputError("the server's packages are not installed; run pip install 'emova[serve]'") from None
    # A port that is taken is told at once, before a model is loaded.
    with listen(config) as listener, _server(config, arguments, models) as server:
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        print(f"Listening on http://{host}:{port}/v1 (Ctrl+C ends it)", file=sys.stderr, flush=True)
        server.run(sockets=[listener])
    return 0


def _named(given: list[str]) -> dict[str, str]:
    """Each model by what clients call it. Raises: InputError: two have the same name."""
    models: dict[str, str] = {}
    for model in given:
        name = os.path.basename(os.path.normpath(model))
        if name in models:
            raise InputError(f"--model {shown(model)}: another one is called {shown(name)} too; rename its folder")
        models[name] = model
    return models


@contextmanager
def _server(config: ServerConfig, arguments: argparse.Namespace, models: dict[str, str]) -> Iterator[Server]:
    from emova_app.server.running import make_server, server_of

    first = models[config.model_name]
    if not arguments.replicas:
        from emova.assistant import Assistant

        settings = assistant_config(arguments)
        _check_memory(list(models.values()), settings.engine)
        loaded = {}
        for name, model in models.items():
            print(f"Loading {model} ...", file=sys.stderr)
            loaded[name] = Assistant.from_pretrained(model, config=settings)
        others = {name: assistant for name, assistant in loaded.items() if name != config.model_name}
        yield make_server(config, loaded[config.model_name], others=others)
        return
    print(f"Loading {first} ...", file=sys.stderr)
    from emova_app.server.replicas import ReplicaConfig, started, together

    replicas = ReplicaConfig(arguments.replicas, arguments.max_replicas or arguments.replicas)
    with started(config, first, replicas, engine_config(arguments)) as cluster:
        from emova_app.server.gateway import Gateway, create_gateway

        gateway = Gateway(together(config, replicas), cluster.address, cluster.key, cluster.figures)
        yield server_of(create_gateway(gateway), gateway)


def _check_memory(models: list[str], engine: EngineConfig) -> None:
    """See that all models together fit into memory, before one is loaded. Raises: InputError."""
    from emova.checkpoint.loading import find_checkpoint, needed_memory
    from emova.core.memory import available_memory
    from emova.engine.backend import resolve_backend

    if len(models) == 1:  # told by whoever loads it
        return
    needed = {}
    for model in models:
        folder = find_checkpoint(model)
        needed[model] = needed_memory(folder, layers=resolve_backend(engine, folder).holds_layers)
    there = available_memory()
    if sum(needed.values()) > there:
        each = ", ".join(f"{shown(model)} {size / 2**30:.1f}" for model, size in needed.items())
        raise InputError(
            f"--model: together they need {sum(needed.values()) / 2**30:.1f} GiB of memory ({each}), "
            f"{there / 2**30:.1f} are free; serve fewer"
        )
