"""What a browser's event may hold before gradio looks at it."""

from __future__ import annotations

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.blocks import Block
from gradio.state_holder import SessionState

from emova_app.demo.uploads.files import as_upload

FILES = (gr.Image, gr.UploadButton)


class Page(gr.Blocks):
    """Blocks that take from a browser plain values, and the paths of uploads where a file is asked for; nothing else.

    Gradio would copy, fetch or serve whatever a value names that looks like a file, in any component; and ``gr.Image``
    would decode it without our limits and with errors of its own. So gradio sees no file at all, and an event gets the
    path of the upload, unread.
    """

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[object], state: SessionState | None, explicit_call: bool = False
    ) -> list[object]:
        """As gradio's, of checked ``inputs``."""
        self.validate_inputs(block_fn, inputs)
        given = list(zip(block_fn.inputs, inputs, strict=False))
        plain = [None if isinstance(block, FILES) else _plain(block, value) for block, value in given]
        files = {place: _path(value) for place, (block, value) in enumerate(given) if isinstance(block, FILES)}
        processed = await super().preprocess_data(block_fn, plain, state, explicit_call)
        return [files.get(place, value) for place, value in enumerate(processed)]


def _plain(block: Block, value: object) -> str | int | float | None:
    """A value without parts. Raises: gr.Error: no page of ours sent it."""
    if isinstance(block, gr.State):
        return None  # the server's own is used
    if value is None or isinstance(value, str | int | float):
        return value
    raise _forged()


def _path(value: object) -> str | None:
    """The path that an upload's data names. Nothing else in them (an address, a name) is used. Raises: gr.Error."""
    if value is None:
        return None
    if isinstance(value, dict):
        return as_upload(value.get("path"))
    raise _forged()


def _forged() -> gr.Error:
    return gr.Error("The page sent something else than it should; reload it.", print_exception=False)
