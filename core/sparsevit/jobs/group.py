"""One job on several devices of this machine: a process for each, of which the first reports and writes."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from sparsevit.errors import CancelledError, InputError, ResourceError, SparseViTError
from sparsevit.jobs.base import Result, resource_errors
from sparsevit.models.hardware import HardwareSettings, resolve_device
from sparsevit.reporting import CallbackReporter, Reporter
from sparsevit.training import group
from sparsevit.training.loop import TrainingSettings

POLL_SECONDS = 0.1

AnyResult = TypeVar("AnyResult", bound=Result)
Run = Callable[[Any, Reporter], AnyResult]


def on_devices(run: Run[AnyResult]) -> Run[AnyResult]:
    """Let a job whose request has `training` and `hardware` settings run on `training.devices` devices."""

    @functools.wraps(run)
    def grouped(request: Any, reporter: Reporter) -> AnyResult:
        training: TrainingSettings = request.training
        if training.devices == 1 or group.size() > 1:
            return run(request, reporter)
        check_devices(training.devices, request.hardware)
        return _lead(grouped, request, training.devices, reporter)

    return grouped


def check_devices(devices: int, hardware: HardwareSettings) -> None:
    """Refuse more devices than there are.

    Raises:
        InputError: The machine has fewer GPUs, or the kind of device comes alone.
    """
    kind = resolve_device(hardware).type
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind, torch.get_num_threads())
    if devices > available:
        raise InputError(
            f"{devices} devices were asked for; this machine offers {available} for '{kind}'.",
            "devices",
            f"Use at most {available}, or another 'device'.",
        )


def _lead(run: Run[AnyResult], request: Any, devices: int, reporter: Reporter) -> AnyResult:
    """Start the processes, pass on what the first one says, and leave none behind."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    stop = context.Event()
    with tempfile.TemporaryDirectory(prefix="sparsevit-group-") as folder:
        arguments = (run, request, devices, Path(folder) / "rendezvous", sender, stop)
        members = start_processes(_member, arguments, devices, join=False)
        try:
            while True:
                if reporter.cancelled():
                    stop.set()
                if receiver.poll(POLL_SECONDS):
                    event, value = receiver.recv()
                    if event == "result":
                        result: AnyResult = value
                        return result
                    if event == "error":
                        raise value
                    if event == "cancelled":
                        raise CancelledError
                    _pass_on(event, value, reporter)
                elif members.join(timeout=0, grace_period=0) and not receiver.poll():
                    raise ResourceError("The training processes ended without a result.", "devices", "Use one device.")
        except ProcessExitedException as err:
            hint = "Use fewer devices or a smaller batch."
            raise ResourceError(
                f"One of {devices} training processes was ended from outside.", "devices", hint
            ) from err
        except ProcessRaisedException as err:
            raise RuntimeError(str(err)) from err
        finally:
            for process in members.processes:
                process.kill()
                process.join()


def _pass_on(event: str, fields: dict[str, Any], reporter: Reporter) -> None:
    if event == "progress":
        reporter.progress(fields["progress"], fields["phase"])
    elif event == "log":
        reporter.log(fields["text"], fields["level"])
    else:
        reporter.metric(fields["name"], fields["step"], fields["value"])


def _follow_the_leader() -> None:
    """Stop when the leader says so, or is gone: Ctrl-C, or a cluster, tells all processes at once."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    leader = multiprocessing.parent_process()
    assert leader is not None

    def wait() -> None:
        leader.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _member(
    rank: int, run: Run[AnyResult], request: Any, devices: int, rendezvous: Path, sender: Connection, stop: Event
) -> None:
    """One process of the group; all come to the same errors, so the first one's word is enough."""
    _follow_the_leader()
    cuda = resolve_device(request.hardware).type == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(torch.get_num_threads() // devices, 1))
    with group.membership("nccl" if cuda else "gloo", rendezvous, rank, devices):
        if rank > 0:
            logging.disable()
            with contextlib.suppress(SparseViTError):
                run(request, Reporter())
            return
        try:
            with resource_errors("training", ["batch"]):
                result = run(request, CallbackReporter(lambda *event: sender.send(event), stop.is_set))
            sender.send(("result", result))
        except CancelledError:
            sender.send(("cancelled", None))
        except SparseViTError as err:
            sender.send(("error", err))
