"""The whole page, and the web application around it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

# Read by gradio when it is imported and when a page is opened: nothing leaves this machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import anyio.to_thread
import gradio as gr
from fastapi import FastAPI
from fastapi.params import Depends
from fastapi.routing import APIRoute
from gradio.routes import App
from starlette.routing import Mount

from emova.assistant import Assistant
from emova.session.config import SchedulerConfig
from emova.session.scheduler import Scheduler
from emova_app.demo.call_route import call_route
from emova_app.demo.calls import ServerFunction
from emova_app.demo.conversation.pages import Pages, PlaceLimits
from emova_app.demo.conversation.service import TalkService
from emova_app.demo.model_card import about, languages, sees
from emova_app.demo.theme import css, head, theme
from emova_app.demo.tools import AT_ONCE, ToolService
from emova_app.demo.uploads.files import MAX_UPLOAD_BYTES, Store, UploadLimits
from emova_app.demo.uploads.folder import OwnFolder
from emova_app.demo.uploads.middleware import OwnPageOnly
from emova_app.demo.uploads.own_hosts import OwnHosts
from emova_app.demo.uploads.upload_routes import upload_routes
from emova_app.demo.views import frame, talk, tool
from emova_app.demo.visitors import Share

TIDY_SECONDS = 60.0
THREADS = 80  # for calls; most of them wait
CALLS_OF_A_PAGE = 6  # under way at once; two of them wait for events and for sound
UPLOADS = 8  # at once


@dataclass(frozen=True)
class DemoConfig:
    """Bounds of the demo.

    Attributes:
        max_pages: pages open at once; each holds one cache of the model's context. Whoever comes then waits in a line.
        max_pages_of_one: of one address, so that it leaves places to others. Visitors behind one router or one proxy
            have one address.
        places: how long they are kept.
        uploads: what they may take together, and for how long.
    """

    max_pages: int = 8
    max_pages_of_one: int = 4
    places: PlaceLimits = PlaceLimits()
    uploads: UploadLimits = UploadLimits()


def build_page(pages: Pages, uploads: Store) -> gr.Blocks:
    """All tabs. They are the page's own HTML and scripts, which call functions of the server; gradio sees no input."""
    assistant = pages.scheduler.assistant
    styles, tools = assistant.styles, ToolService(pages.scheduler, uploads)
    with gr.Blocks(title="emova", analytics_enabled=False) as blocks:
        gr.HTML(html_template=frame(), js_on_load="window.emova.frame(element);", apply_default_css=False)
        with gr.Column(elem_id="panel-talk", elem_classes="em-panel"):
            gr.HTML(
                html_template=talk(styles, about(assistant), languages(assistant), sees(assistant)),
                js_on_load="window.emova.talk(element, server);",
                apply_default_css=False,
                server_functions=TalkService(pages, uploads).functions,
                elem_id="talk",
            )
        for name in ("transcribe", "speak", "resynthesise"):
            with gr.Column(elem_id=f"panel-{name}", elem_classes="em-panel em-hidden"):
                gr.HTML(
                    html_template=tool(name, styles),
                    js_on_load="window.emova.tool(element, server);",
                    apply_default_css=False,
                    server_functions=tools.functions,
                    elem_id=name,
                )
    return blocks


def build_app(
    assistant: Assistant,
    *,
    config: DemoConfig = DemoConfig(),
    hosts: tuple[str, ...] = (),
    password: str | None = None,
) -> FastAPI:
    """The web application. Its uploads lie in a temporary folder that is deleted when it ends, or at the next start.

    Args:
        hosts: further names, beside this machine's own, by which a browser may call it; see ``OwnHosts``.
        password: asked for, with the user name ``emova``.

    Raises:
        InputError: a package is missing, or the model cannot stream.
    """
    places = config.max_pages + AT_ONCE
    scheduler = Scheduler(assistant, SchedulerConfig(max_sessions=places, idle_seconds=1800.0))
    pages = Pages(scheduler, config.max_pages, config.places, config.max_pages_of_one)
    folder = OwnFolder()
    os.environ["GRADIO_TEMP_DIR"] = str(folder.path)  # where gradio's own files would lie
    store = Store(folder.path, config.uploads)
    blocks = build_page(pages, store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        tidying = asyncio.create_task(_tidy(store, pages))
        try:
            yield
        finally:
            tidying.cancel()
            pages.close_all()
            folder.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(OwnPageOnly)
    app.add_middleware(OwnHosts, hosts=hosts)
    app.state.pages, app.state.uploads = pages, store
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        auth=("emova", password) if password else None,
        allowed_paths=[],
        max_file_size=MAX_UPLOAD_BYTES,
        show_error=False,
        ssr_mode=False,
        footer_links=[],
        run_history=False,
        theme=theme(),
        css=css(),
        head=head(),
    )
    # Only mounted, not launched, gradio would not check where a path leads.
    blocks.has_launched = True
    mount = app.router.routes[-1]
    assert isinstance(mount, Mount) and isinstance(mount.app, App)
    app.router.routes.pop()
    asks, of_one = _who_may_ask(mount.app), config.max_pages_of_one
    app.include_router(upload_routes(store, asks, Share(min(UPLOADS, of_one), UPLOADS)))
    app.include_router(call_route(_functions(blocks), asks, Share(CALLS_OF_A_PAGE * of_one)))
    app.router.routes.append(mount)
    return app


def _who_may_ask(inner: App) -> list[Depends]:
    """Gradio's own check of the password, for routes beside it."""
    found = [route.dependencies for route in inner.routes if isinstance(route, APIRoute) and route.path == "/config"]
    assert len(found) == 1 and found[0], "gradio's route /config asks nobody for the password"
    return list(found[0])


def _functions(blocks: gr.Blocks) -> dict[tuple[object, object], ServerFunction]:
    """All that the page's scripts may call."""
    return {
        (number, function.__name__): function
        for number, block in blocks.blocks.items()
        if isinstance(block, gr.HTML)
        for function in block.server_fns
    }


async def _tidy(store: Store, pages: Pages) -> None:
    """Forget old uploads and pages that were left, as long as the demo runs."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        await asyncio.to_thread(pages.tidy)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(store.forget_old)
