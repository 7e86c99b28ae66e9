"""`clipline app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipline.cli.options import FolderArgument, ProviderName, ProviderOption, RootOption, model_option

EXAMPLES = (
    "**Examples**\n\n"
    "clipline app embeddings --open\n\n"
    "clipline app embeddings --model models/onnx --root /mnt/photos --port 8000\n\n"
    "Ctrl-C stops it. Without a password it is for this machine alone: for others, put it behind a server that asks "
    "for one."
)


def app(
    folder: FolderArgument,
    *,
    model: Annotated[Path | None, model_option("The model that embedded them.", show_default="that of DIR")] = None,
    root: RootOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = 7860,
    provider: ProviderOption = ProviderName.cpu,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Search an embeddings folder on a web page: in words, by image, with labels and captions.

    The page shows the images of the folder that was embedded and no other file, asks nothing of other machines, and
    follows the embeddings when they change.
    """
    from clipline.app import serve
    from clipline.app.library import Library
    from clipline.cli.output import say

    listening = serve.listen(host, port)
    with serve.quiet(), listening:
        public, url = serve.is_public(listening), serve.url_of(listening)
        say("starting...")
        library = Library(folder, model, root, provider.value)
        built = serve.application(library, public=public)
        library.warm()
        if public:
            say(
                f"warning: listening on {host}: everyone who can reach this machine sees these images; there is no "
                "password"
            )

        def ready() -> None:
            say(f"{url}  ({len(library.now().index):,} images; Ctrl-C stops)", err=False)
            if open_browser:
                import webbrowser

                webbrowser.open(url)

        serve.run(built, listening, ready)
    say("stopped")
