"""A person's door: `sparsevit JOB --options`, and `sparsevit run job.json`."""

from __future__ import annotations

import inspect
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sparsevit import __version__
from sparsevit.errors import SparseViTError
from sparsevit.jobs import JOBS, get_job
from sparsevit.jobs.base import Job
from sparsevit.reporting import CallbackReporter

console = Console(stderr=True)
logger = logging.getLogger("sparsevit")


def execute(job: Job, params: dict[str, Any]) -> None:
    """Do a job with a progress bar on stderr; the result goes to stdout as JSON.

    Raises:
        typer.Exit: With code 1 when the job failed; the reason is on stderr.
    """
    stop = threading.Event()
    for request_to_stop in (signal.SIGINT, signal.SIGTERM):  # a terminal's, and a cluster's
        signal.signal(request_to_stop, lambda *_: stop.set())
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(job.name, total=1.0)

        def emit(event: str, fields: dict[str, Any]) -> None:
            if event == "progress":
                bar.update(task, completed=fields["progress"], description=fields["phase"] or job.name)
            elif event == "metric":
                logger.debug("%s[%s] = %.5f", fields["name"], fields["step"], fields["value"])
            else:
                logger.log(logging.WARNING if fields["level"] == "warning" else logging.INFO, fields["text"])

        try:
            result = job.execute(params, CallbackReporter(emit, stop.is_set))
        except SparseViTError as err:
            bar.stop()
            console.print(f"[red]Error:[/red] {err}", highlight=False)
            raise typer.Exit(1) from err
    typer.echo(result.model_dump_json(indent=2))
    if getattr(result, "ok", True) is False:
        raise typer.Exit(1)


def command(job: Job) -> Callable[..., None]:
    """A typer command with one option per value of the job's request."""

    def run(**given: Any) -> None:
        execute(job, {name: value for name, value in given.items() if value is not None and value != []})

    parameters = [_parameter(name, field) for _, name, field in job.request.leaves()]
    parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = job.summary
    return run


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    option_name = name.replace("_", "-")
    switch = f"--{option_name}/--no-{option_name}" if field.annotation is bool else f"--{option_name}"
    option = typer.Option(switch, help=field.description, show_default=True)
    default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
    kind = _option_type(field.annotation)
    if isinstance(default, list):
        default = None
        kind = kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _option_type(annotation: Any) -> Any:
    """The type of a command-line option: dictionaries are given as files."""
    parts = [a for a in get_args(annotation) if get_origin(a) is not dict]
    if type(None) in parts and Path in parts:
        return Path | None
    return annotation


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def build(names: list[str]) -> typer.Typer:
    """The application; only the jobs named get their options, because importing a job may take seconds."""
    app = typer.Typer(
        name="sparsevit", no_args_is_help=True, add_completion=False, help="Land-cover maps from image-level labels."
    )
    groups: dict[str, typer.Typer] = {"": app}
    for name, summary in JOBS.items():
        group, _, leaf = name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(no_args_is_help=True, help=summary)
            app.add_typer(groups[group], name=group)
        groups[group].command(leaf, help=summary)(command(get_job(name)) if name in names else lambda: None)

    @app.command("run", help='Run a job file: {"job": "train", "params": {…}}.')
    def run_file(file: Annotated[Path, typer.Argument(help="Job file (JSON).")]) -> None:
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            job = get_job(str(data["job"]))
            params = dict(data["params"])
        except (OSError, ValueError, KeyError, TypeError, SparseViTError) as err:
            console.print(f"[red]Error:[/red] {file} is not a job file: {err}", highlight=False)
            raise typer.Exit(1) from err
        execute(job, params)

    @app.callback()
    def common(
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show metrics while training.")] = False,
        version: Annotated[
            bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
        ] = False,
    ) -> None:
        level = logging.DEBUG if verbose else logging.INFO
        logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
        logger.setLevel(level)

    return app


def main() -> None:
    """Entry point of the console script."""
    words = f" {' '.join(sys.argv[1:])} "
    build([name for name in JOBS if f" {name} " in words])()


if __name__ == "__main__":
    main()
