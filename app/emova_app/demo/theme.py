"""How the page looks: calm, in light and dark, with the fonts that the machine has."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, sizes

STATIC = Path(__file__).parent / "static"
SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """Teal on warm grey; no font is fetched."""
    return gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.stone,
        radius_size=sizes.radius_lg,
        spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_text_color="#24221f",
        body_text_color_dark="#e8eaec",
        body_text_color_subdued="#6b665d",
        body_text_color_subdued_dark="#a3abb3",
        block_label_text_color="#57534a",
        block_label_text_color_dark="#b4bbc2",
        input_placeholder_color="#767066",
        input_placeholder_color_dark="#8d959d",
        checkbox_label_background_fill="#f3f0ea",
        checkbox_label_background_fill_dark="#252a30",
        body_background_fill="#f6f5f2",
        body_background_fill_dark="#14171a",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1c2024",
        background_fill_secondary="#faf9f7",
        background_fill_secondary_dark="#181b1f",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1c2024",
        block_border_color="#e4e1da",
        block_border_color_dark="#2b3036",
        block_label_background_fill="#ffffff",
        block_label_background_fill_dark="#1c2024",
        block_shadow="none",
        border_color_primary="#e4e1da",
        border_color_primary_dark="#2b3036",
        input_background_fill="#ffffff",
        input_background_fill_dark="#14171a",
        input_border_color="#d8d4cb",
        input_border_color_dark="#343a41",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#0d655e",
        button_primary_background_fill_dark="#14897f",
        button_primary_background_fill_hover_dark="#169c91",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#efece6",
        button_secondary_background_fill_hover="#e6e2da",
        button_secondary_background_fill_dark="#272c32",
        button_secondary_background_fill_hover_dark="#313740",
        link_text_color="#0f766e",
        link_text_color_dark="#5fc9bd",
    )


def css() -> str:
    """The page's own style sheets."""
    return "\n".join(static(f"{name}.css") for name in ("frame", "talk", "sound"))


def head() -> str:
    """The page's scripts, in the order in which they build on each other."""
    names = (
        "voice", "ui", "shell", "link", "recorder", "lines", "captions", "ears", "camera", "drawer", "talk", "tools",
    )  # fmt: skip
    return "".join(f"<script>{static(f'{name}.js')}</script>" for name in names)


def static(name: str) -> str:
    """The text of one of the page's files."""
    return (STATIC / name).read_text(encoding="utf-8")
