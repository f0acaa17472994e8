"""`dualforce up`: the UI over a run's folder, with its flows deployed so that the UI can start and rerun them."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from dualforce_model.config import ConfigError
from flows.server import PrefectServer, ServerError
from tasks.process import Supervised, folder_lock


def serve_until_stopped(out: Path, port: int, tell: Callable[[str], None]) -> None:
    """Start server and deployments, wait for Ctrl-C, stop both. Raises ServerError should one end by itself."""
    if not (out / "pipeline.yaml").is_file():
        raise ConfigError(f"{out} is not the folder of a run; give --out")
    with folder_lock(out, "dualforce up"):
        _serve(out, port, tell)


def _serve(out: Path, port: int, tell: Callable[[str], None]) -> None:
    server = PrefectServer(out / "prefect", port)
    try:
        tell("starting the Prefect server")
        server.ready()
        command = [sys.executable, "-m", "flows.serving", str(out.resolve())]
        log = out / "prefect" / "deployments.log"
        with Supervised(command, environment=server.environment, log=log) as deployments:
            tell(f"the UI is at {server.url}; deployments are served (log: {log}); Ctrl-C ends both")
            while server.process.alive() and deployments.alive():
                time.sleep(0.5)
            ended, said = ("deployments", log) if server.process.alive() else ("Prefect server", server.log)
            raise ServerError(f"the {ended} ended unasked; see {said}, then start `dualforce up --out {out}` again")
    finally:
        server.close()


def serve(out: Path) -> None:
    """Deploy the flows of a run's folder and run what the UI asks for."""
    from prefect import serve as serve_deployments

    from flows.pipeline import load_saved
    from flows.registry import load_flow
    from flows.rerun import RerunRun

    pipeline = load_saved(out)
    runs = {**pipeline.runs(), "pipeline": pipeline, "rerun": RerunRun(pipeline=pipeline)}
    deployments = [
        load_flow(name).to_deployment(name=pipeline.place.dataset, parameters={"config": run.model_dump(mode="json")})  # type: ignore[attr-defined]  # a flow
        for name, run in runs.items()
    ]
    serve_deployments(*deployments, limit=1)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
