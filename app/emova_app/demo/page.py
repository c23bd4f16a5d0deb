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

import gradio as gr
from fastapi import FastAPI
from fastapi.params import Depends
from fastapi.routing import APIRoute
from gradio.routes import App
from starlette.routing import Mount

from emova.assistant import Assistant
from emova.core.errors import InputError
from emova.session.config import SchedulerConfig
from emova.session.scheduler import Scheduler
from emova_app.demo.inputs import Page
from emova_app.demo.page_sessions import BarValue, PageSessions
from emova_app.demo.parts import warn
from emova_app.demo.talk_tab import TalkTab
from emova_app.demo.theme import css, head, theme
from emova_app.demo.tool_tabs import resynthesise_tab, speak_tab, transcribe_tab
from emova_app.demo.uploads.files import MAX_UPLOAD_BYTES, Store, UploadLimits
from emova_app.demo.uploads.folder import OwnFolder
from emova_app.demo.uploads.middleware import OwnPageOnly
from emova_app.demo.uploads.own_hosts import OwnHosts
from emova_app.demo.uploads.upload_routes import upload_routes

HEAD = """
<div class="em-head"><div class="em-logo" aria-hidden="true"></div>
<div><h1>emova</h1><p>It sees, hears, and answers in a voice with feeling. All of it on this machine.</p></div>
<button type="button" class="em-theme" aria-label="light or dark" title="light or dark">◐</button></div>"""
TIDY_SECONDS = 60.0
SWITCH_THEME = """
element.querySelector(".em-theme").addEventListener("click", () => document.body.classList.toggle("dark"));
"""


@dataclass(frozen=True)
class DemoConfig:
    """Bounds of the demo.

    Attributes:
        max_pages: pages open at once; each holds one cache of the model's context.
        max_queue: events that wait; more are refused with a message.
        uploads: what they may take together, and for how long.
    """

    max_pages: int = 8
    max_queue: int = 32
    uploads: UploadLimits = UploadLimits()


def build_page(pages: PageSessions, config: DemoConfig = DemoConfig()) -> gr.Blocks:
    """All tabs, with their events."""
    assistant = pages.scheduler.assistant

    def arrive(request: gr.Request) -> tuple[str, BarValue]:
        try:
            page = pages.open(str(request.session_hash))
        except InputError as error:
            warn(error, "Please wait")
            return "", {}
        return page.ticket, page.bar_value

    def leave(request: gr.Request) -> None:
        pages.leave(str(request.session_hash))

    with Page(title="emova", analytics_enabled=False) as blocks:
        gr.HTML(html_template=HEAD, js_on_load=SWITCH_THEME, apply_default_css=False)
        ticket = gr.State("")
        with gr.Tabs():
            with gr.Tab("Talk"):
                talk = TalkTab(pages, ticket)
            with gr.Tab("Transcribe"):
                transcribe_tab(assistant)
            with gr.Tab("Speak"):
                speak_tab(assistant)
            with gr.Tab("Resynthesise"):
                resynthesise_tab(assistant)
        blocks.load(arrive, None, [ticket, talk.bar], show_progress="hidden")
        blocks.unload(leave)
    blocks.queue(max_size=config.max_queue, default_concurrency_limit=2, api_open=False)
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
    scheduler = Scheduler(assistant, SchedulerConfig(max_sessions=config.max_pages, idle_seconds=1800.0))
    pages = PageSessions(scheduler)
    folder = OwnFolder()
    os.environ["GRADIO_TEMP_DIR"] = str(folder.path)
    store = Store(folder.path, config.uploads)
    blocks = build_page(pages, config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_tidy(store))
        try:
            yield
        finally:
            tidying.cancel()
            pages.close_all()
            folder.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(OwnPageOnly)
    app.add_middleware(OwnHosts, hosts=hosts)
    app.state.pages = pages
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
    app.include_router(upload_routes(store, _who_may_ask(mount.app)))
    app.router.routes.append(mount)
    return app


def _who_may_ask(inner: App) -> list[Depends]:
    """Gradio's own check of the password, for routes beside it."""
    found = [route.dependencies for route in inner.routes if isinstance(route, APIRoute) and route.path == "/config"]
    assert len(found) == 1 and found[0], "gradio's route /config asks nobody for the password"
    return list(found[0])


async def _tidy(store: Store) -> None:
    """Forget old uploads, as long as the demo runs."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(store.forget_old)
