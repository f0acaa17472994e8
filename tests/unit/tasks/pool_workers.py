"""Workers that misbehave on request; imported by name inside worker processes."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dualforce_model.config import Frozen
from tasks.records import FailureClass, Impossible, Reason, Temporary
from tasks.worker import ShortOfMemory


class Scripted:
    """Does what the payload's `do` says. `once` steps misbehave the first time only, remembered in the folder."""

    def __init__(self, folder: Path, at_load: str = "") -> None:
        assert isinstance(folder, Path), "arguments are validated against the hints"
        self.folder = folder
        self.at_load = at_load

    def load(self) -> None:
        (self.folder / f"loaded-{os.getpid()}").touch()
        for step in self.at_load.split():
            self.act(step)

    def __call__(self, payload: dict[str, Any]) -> dict[str, Any]:
        for step in payload.get("do", "").split():
            if step.startswith("once:"):
                marker = self.folder / f"once-{payload['name']}"
                if marker.exists():
                    continue
                marker.touch()
                step = step.removeprefix("once:")
            self.act(step)
        return {
            "name": payload["name"],
            "pid": os.getpid(),
            "threads": os.environ["OMP_NUM_THREADS"],
            "ignores_int": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }

    def act(self, step: str) -> None:
        verb, _, argument = step.partition("=")
        if verb == "sleep":
            time.sleep(float(argument))
        elif verb == "say":
            print(argument, flush=True)
        elif verb == "spam":
            sys.stdout.write("x" * int(argument))
        elif verb == "exit":
            os._exit(int(argument))
        elif verb == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif verb == "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
            (self.folder / "child").write_text(str(child.pid))
        elif verb == "hold":
            self.held = b"x" * int(argument)
        elif verb == "span":
            started = time.monotonic()
            time.sleep(float(argument))
            (self.folder / f"span-{started}-{time.monotonic()}").touch()
        elif verb == "raise":
            raise ERRORS[argument]


class Together(Scripted):
    """Takes what it is handed at once. `crowded` lacks something unless it is the only job of its message."""

    def batch(self, payloads: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any] | ShortOfMemory | Exception]:
        with open(self.folder / "messages", "a", encoding="utf-8") as log:
            log.write(f"{len(payloads)}\n")
        for payload in payloads:
            if payload.get("do") == "return=bug":
                yield ERRORS["bug"]  # type: ignore[misc]  # a plain exception
            elif payload.get("do", "").startswith("crowded"):
                value = {"name": payload["name"], "of": len(payloads)}
                short = payload["do"] == "crowded=always" or len(payloads) > 1
                yield ShortOfMemory(value) if short else value
            elif payload.get("do") != "skip":
                yield self(payload)


class Silent:
    """No load, and an answer that is no dict."""

    def __call__(self, payload):  # type: ignore[no-untyped-def]  # the hint is optional, that is the point
        return payload.get("answer", 3)


class Order(Frozen):
    """A typed payload."""

    number: int


class Typed:
    """Takes a model, as most workers do."""

    def __call__(self, order: Order) -> dict[str, Any]:
        return {"double": order.number * 2}


ERRORS: dict[str, BaseException] = {
    "impossible": Impossible(Reason.NO_FACE, "0 of 10 frames"),
    "shown": Impossible(Reason.NO_FACE, "0 of 10 frames", "crops/why.jpg"),
    "temporary": Temporary(FailureClass.THROTTLED, "come back later"),
    "memory": MemoryError("no more"),
    "cuda": type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "bug": ZeroDivisionError("of all things"),
    "leave": SystemExit(3),
    "surrogate": ValueError("bad name \udcff"),
}
