"""Which process holds something, and whether it still lives: the owner of leases and of private temporary folders."""

import os
import socket
import sys
from typing import Self

import psutil
from pydantic import Field

from dualforce_model.config import Frozen

CLOCK_SLACK_S = 2.0  # a start time is boot time plus ticks, and boot time moves when the clock is set


class Holder(Frozen):
    """One process, told apart from a later one with the same number by when it started."""

    host: str = Field(description="name of the machine")
    namespace: str = Field(description="process namespace: two containers may share a host name, never this")
    pid: int = Field(ge=1, description="process number")
    started_at: float = Field(ge=0.0, description="when the process started, seconds since 1970")

    @classmethod
    def current(cls) -> Self:
        """The calling process."""
        pid = os.getpid()
        return cls(
            host=socket.gethostname(), namespace=_namespace(), pid=pid, started_at=psutil.Process(pid).create_time()
        )

    def is_gone(self) -> bool:
        """Whether the process certainly ended. One on another host, or out of sight, is presumed to live."""
        if (self.host, self.namespace) != (socket.gethostname(), _namespace()):
            return False
        try:
            process = psutil.Process(self.pid)
            other = abs(process.create_time() - self.started_at) > CLOCK_SLACK_S
            return other or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid") if sys.platform == "linux" else ""
