"""verify: what works on this machine."""

from typing import Literal

from prefect import flow
from pydantic import Field

from flows.preflight import FlowRun
from tasks.artifacts import publish
from tasks.checks import CheckReport, machine_checks
from tasks.place import Place


class VerifyRun(FlowRun):
    """What to check."""

    place: Place = Place()
    what: Literal["machine"] = Field("machine", description="machine: interpreter, packages, codec, server, disk, GPU")


@flow(name="verify")
def verify(config: VerifyRun) -> CheckReport:
    """Run the checks and keep their table in the UI."""
    report = machine_checks()
    publish("verify", f"```\n{report.text()}\n```", f"what works: {config.what}")
    return report
