"""The Gradio theme of the page: with fonts of the system, so that nothing is loaded from other hosts."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

CSS = Path(__file__).parent / "style.css"
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")


def theme() -> gr.themes.Base:
    """The theme. Fonts are strings, as gr.themes.GoogleFont would be downloaded."""
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", neutral_hue="stone", radius_size="md", font=list(SANS),
        font_mono=list(MONO),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="#161514",
        background_fill_primary_dark="#1f1e1c",
        color_accent="*primary_700",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="*primary_950",
        border_color_accent="*primary_700",
        block_border_width="0px",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        input_border_width="1px",
        input_background_fill="white",
        input_background_fill_dark="#1f1e1c",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
    )  # fmt: skip
