"""The process of a Prefect server: loads its program at once, and writes nothing until it hears that it may.

python -m flows.server_process HOME PORT WORD    # `flows.server` starts it, and in the end writes WORD to HOME/start
"""

import os
import sys
import time
from pathlib import Path

import uvicorn

from flows.server import START_NAME, enter_home

POLL_S = 0.05


def wait_for_word(note: Path, word: str) -> None:
    """Return when the note holds the word; another one is of an earlier server. If it never does we are ended."""
    while not (note.is_file() and note.read_text(encoding="utf-8") == word):
        time.sleep(POLL_S)


def write_to(log: Path) -> None:
    """From here on the output is the log, ours and the libraries'."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(handle, standard)
    os.close(handle)


def main(home: Path, port: int, word: str) -> None:
    """Serve until told to stop."""
    import prefect.server.api.server  # noqa: F401  # the slow part

    wait_for_word(home / START_NAME, word)
    write_to(home / "server.log")
    enter_home(str(home))
    application = "prefect.server.api.server:create_app"
    uvicorn.run(
        application, factory=True, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=3
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
