"""verify: what works on this machine."""

from pathlib import Path
from typing import Literal

from prefect import flow
from pydantic import Field, model_validator

from flows.preflight import FlowRun, checked
from tasks.artifacts import publish
from tasks.checks import Check, CheckReport, machine_checks
from tasks.place import Place


class VerifyRun(FlowRun):
    """What to check."""

    place: Place = Place()
    what: Literal["machine", "model", "mova"] = Field(
        "machine",
        description="machine: interpreter, packages, codec, server, disk, GPU; model: six parts of a preset; "
        "mova: a MOVA checkpoint",
    )
    preset: str = Field("tiny", description="model: which preset")
    checkpoint: Path | None = Field(None, description="mova: the checkpoint's folder")

    @model_validator(mode="after")
    def _mova_has_a_folder(self) -> "VerifyRun":
        if (self.what == "mova") != (self.checkpoint is not None):
            raise ValueError("what: mova, and only mova, takes a checkpoint")
        return self

    def check(self) -> tuple[str, ...]:
        if self.what == "model":
            from flows.estimation import of_preset  # torch and diffusers take seconds to import

            of_preset(self.preset)
        return ()


@flow(name="verify")
def verify(config: VerifyRun) -> CheckReport:
    """Run the checks and keep their table in the UI."""
    checked(config)
    if config.checkpoint is not None:
        report, text = _mova(config.checkpoint)
    else:
        report, text = _model(config.preset) if config.what == "model" else _machine()
    publish("verify", f"```\n{text}\n```", f"what works: {config.what}")
    return report


def _machine() -> tuple[CheckReport, str]:
    report = machine_checks()
    return report, report.text()


def _model(preset: str) -> tuple[CheckReport, str]:
    """The six parts, on CUDA where there is any."""
    import torch

    from dualforce_model.selfcheck import check_model
    from flows.estimation import of_preset

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = check_model(preset, of_preset(preset).model, device)
    checks = tuple(Check(name=part.name, passed=part.passed, found=part.found) for part in found.parts)
    return CheckReport(checks=checks), found.text()


def _mova(checkpoint: Path) -> tuple[CheckReport, str]:
    """One check: whether the checkpoint works; the text has all that was found."""
    from dualforce_model.mova.verify import verify as verify_checkpoint  # diffusers takes seconds to import

    found = verify_checkpoint(checkpoint)
    message = (
        "; ".join(map(str, found.problems)) or f"{sum(row.num_parameters for row in found.components):,} parameters"
    )
    check = Check(name=f"MOVA checkpoint {checkpoint.name}", passed=not found.problems, found=message)
    return CheckReport(checks=(check,)), found.text()
