"""verify: what works on this machine."""

from pathlib import Path
from typing import Literal

from prefect import flow
from pydantic import Field, model_validator

from flows.preflight import FlowRun
from tasks.artifacts import publish
from tasks.checks import Check, CheckReport, machine_checks
from tasks.place import Place


class VerifyRun(FlowRun):
    """What to check."""

    place: Place = Place()
    what: Literal["machine", "mova"] = Field(
        "machine", description="machine: interpreter, packages, codec, server, disk, GPU; mova: a MOVA checkpoint"
    )
    checkpoint: Path | None = Field(None, description="mova: the checkpoint's folder")

    @model_validator(mode="after")
    def _mova_has_a_folder(self) -> "VerifyRun":
        if (self.what == "mova") != (self.checkpoint is not None):
            raise ValueError("what: mova, and only mova, takes a checkpoint")
        return self


@flow(name="verify")
def verify(config: VerifyRun) -> CheckReport:
    """Run the checks and keep their table in the UI."""
    report, text = _mova(config.checkpoint) if config.checkpoint is not None else _machine()
    publish("verify", f"```\n{text}\n```", f"what works: {config.what}")
    return report


def _machine() -> tuple[CheckReport, str]:
    report = machine_checks()
    return report, report.text()


def _mova(checkpoint: Path) -> tuple[CheckReport, str]:
    """One check: whether the checkpoint works; the text has all that was found."""
    from dualforce_model.mova.verify import verify as verify_checkpoint  # diffusers takes seconds to import

    found = verify_checkpoint(checkpoint)
    message = (
        "; ".join(map(str, found.problems)) or f"{sum(row.num_parameters for row in found.components):,} parameters"
    )
    check = Check(name=f"MOVA checkpoint {checkpoint.name}", passed=not found.problems, found=message)
    return CheckReport(checks=(check,)), found.text()
