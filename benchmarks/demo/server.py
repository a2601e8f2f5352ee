"""Serves the page on this machine alone, without an address of anybody else in it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from strong_envs.features.errors import DataError

HOST = "127.0.0.1"
OUTSIDE = re.compile(rb"""<(?:link|script)\b[^>]*(?:href|src)=["']https?://[^>]*>(?:\s*</script>)?""")
"""Fonts and scripts of other addresses, which Gradio puts into its pages."""


@contextmanager
def local_server(page: Any, port: int, theme: Any, css: str) -> Iterator[str]:
    """Serve a page of Gradio on this machine; yields its address.

    Args:
        page: ``gradio.Blocks``.
        port: 0 takes a free one.
        theme: of Gradio.
        css: more styles.

    Raises:
        DataError: the port is taken.
    """
    port = _free(port)
    try:
        page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            allowed_paths=[str(page.strong_envs_folder)],
            footer_links=[],
            ssr_mode=False,
            theme=theme,
            css=css,
            app_kwargs={"middleware": [_middleware()]},
        )
    except OSError as error:
        raise DataError(f"cannot serve on port {port}: {error}; choose another --port, or 0") from None
    try:
        yield f"http://{HOST}:{port}/"
    finally:
        page.close(verbose=False)


def _free(port: int) -> int:
    """The port, or a free one for 0. Raises `DataError` where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DataError(f"port {port} cannot be used ({error.strerror}); choose another --port, or 0") from None
        return int(probe.getsockname()[1])


def _middleware() -> Any:
    from starlette.middleware import Middleware  # type: ignore[import-not-found]

    return Middleware(WithoutOutside)


class WithoutOutside:
    """ASGI middleware: takes links to fonts and scripts of other addresses out of HTML pages."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on; the body of an HTML page is held back until it is whole."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started: list[Any] = []
        body: list[bytes] = []

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                if not kind.startswith(b"text/html"):
                    await send(message)
                else:
                    started.append(message)
            elif not started:
                await send(message)
            else:
                body.append(message.get("body", b""))
                if not message.get("more_body"):
                    page = OUTSIDE.sub(b"", b"".join(body))
                    kept = [(k, v) for k, v in started[0]["headers"] if k != b"content-length"]
                    headers = [*kept, (b"content-length", str(len(page)).encode())]
                    await send({**started[0], "headers": headers})
                    await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, watched)
