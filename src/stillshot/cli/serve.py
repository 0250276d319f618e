"""``stillshot serve``: students behind HTTP, and a page to try them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillshot.cli.console import echo
from stillshot.cli.progress import progress
from stillshot.cli.students import find_student
from stillshot.deploy.serving.limits import Limits
from stillshot.errors import StillshotError
from stillshot.types import Dtype

LOOPBACK = ("127.0.0.1", "::1", "localhost")
LIMITS = Limits()
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    students: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="Students: folders under a run's students/, runs, which stand for their best distilled ones, or exports. "
            "The first answers requests that name none.",
        ),
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on; 0 for a free one.")
    ] = 8080,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="STILLSHOT_TOKEN",
            help="What requests must show. Others see it in the list of processes; the variable hides it.",
        ),
    ] = None,
    teacher: Annotated[
        bool,
        typer.Option("--teacher", help="Also serve the teachers, with the contexts of the students' runs."),
    ] = False,
    queue: Annotated[
        int,
        typer.Option("--queue", min=1, metavar="N", help="Inputs that may wait for one student; then 429."),
    ] = LIMITS.queue_rows,
    batch: Annotated[
        int,
        typer.Option("--batch", min=1, metavar="N", help="Inputs of one batch; 1 for no batching."),
    ] = LIMITS.batch_rows,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            metavar="N",
            help="Batches computed at one time, each by an equal part of the cores (OMP_NUM_THREADS); unless given, "
            "one a core, at most 8, and one on a GPU. With 1, a large student answers a single text soonest.",
        ),
    ] = None,
    dtype: Annotated[
        Dtype,
        typer.Option(
            "--dtype",
            help="What students compute in; auto is bfloat16 where the processor multiplies in it. "
            "ONNX and GGUF exports keep what they were exported with.",
        ),
    ] = "auto",
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Longest wait for an answer; then 504."),
    ] = LIMITS.timeout_seconds,
) -> None:
    """Serve students over HTTP, with a page to try them in a browser.

    The endpoints are those of Text Embeddings Inference (/predict) and vLLM (/classify). SIGTERM or Ctrl-C ends the server once all accepted requests are answered.

    \b
    Example:
      stillshot serve runs/first --teacher
    """
    _check_token(token, host)
    folders = [find_student(path) for path in students]
    with progress() as report:
        report("serve", "loading libraries", 0, 0)
        _check_installed()
        from stillshot.deploy.serving.app import create_app
        from stillshot.deploy.serving.server import address_of, bind, run_server
        from stillshot.deploy.serving.students import load_students
        from stillshot.deploy.serving.workers import Workers
        from stillshot.evaluate.runner import quiet_libraries

        quiet_libraries()
        limits = Limits(queue_rows=queue, batch_rows=batch, timeout_seconds=timeout)
        bound, divided = bind(host, port), Workers.of(workers)
        loaded = load_students(
            folders,
            with_teachers=teacher,
            dtype=dtype,
            threads=divided.threads,
            report=lambda what: report("serve", what, 0, 0),
        )
    # A page of another name that leads here would be of this origin to a browser: only a token tells it apart.
    hosts = LOOPBACK if token is None and host in LOOPBACK else None
    app = create_app(loaded, limits, token, hosts, divided)
    names = ", ".join(student.name for student in loaded)
    run_server(
        app,
        limits,
        bound,
        lambda: echo(f"Serving {names} at {address_of(bound)} (Ctrl-C ends it).", err=True),
    )
    metrics = app.state.service.metrics
    echo(f"Stopped: {metrics.accepted:,} requests accepted, {metrics.answered:,} answered.", err=True)


def _check_token(token: str | None, host: str) -> None:
    if token is not None and (not token.isascii() or not token.strip() or any(c.isspace() for c in token)):
        raise StillshotError(
            "The token is empty, has spaces or is not ASCII. Give one word to --token or STILLSHOT_TOKEN, or leave both out."
        )
    if token is None and host not in LOOPBACK:
        echo(f"note: without --token, whoever reaches {host} can ask these students.", err=True)


def _check_installed() -> None:
    import importlib.util

    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise StillshotError(
            f"Serving needs {', '.join(missing)}, which the extra `serve` brings: pip install 'stillshot[serve]'."
        )
