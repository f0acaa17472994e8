"""Ctrl-C and SIGTERM that are never lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a finaliser, a weak reference's callback or
compiled code that cannot pass an error on, it is reported as "ignored" and the program goes on as if nobody had asked.
"""

import signal
import sys
import threading
from typing import NoReturn

AGAIN_S = 0.05  # long enough to be out of the place that swallowed it


class Terminated(KeyboardInterrupt):
    """SIGTERM came. A KeyboardInterrupt, because everything that ends in order on Ctrl-C does so then too."""

    signal = signal.SIGTERM


def keep_interrupts() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does, and what was swallowed of either is sent again."""
    signal.signal(signal.SIGTERM, _terminated)
    report = sys.unraisablehook

    def on_unraisable(lost: "sys.UnraisableHookArgs") -> None:
        number = _signal_behind(lost)
        if number is None:
            report(lost)
        else:
            _send_again(number)

    sys.unraisablehook = on_unraisable


def _terminated(number: int, frame: object) -> NoReturn:
    raise Terminated


def _signal_behind(lost: "sys.UnraisableHookArgs") -> signal.Signals | None:
    """The signal whose handler raised; Prefect's exception carries its own too, while a flow runs."""
    if issubclass(lost.exc_type, Exception):
        return None
    number = getattr(lost.exc_value, "signal", None)
    if isinstance(number, int):
        return signal.Signals(number)
    return signal.SIGINT if issubclass(lost.exc_type, KeyboardInterrupt) else None


def _send_again(number: signal.Signals) -> None:
    main = threading.main_thread().ident
    assert main is not None, "the main thread runs"
    timer = threading.Timer(AGAIN_S, signal.pthread_kill, (main, number))
    timer.daemon = True
    timer.start()
