"""What the flow `verify` says of a model."""

import pytest

from dualforce_model.config import ConfigError
from flows.verify import VerifyRun, _model


def test_the_six_parts_of_a_model_become_checks() -> None:
    report, text = _model("tiny")
    assert [check.passed for check in report.checks] == [True] * 6
    assert report.problems == ()
    assert text.startswith("tiny on ")


def test_a_preset_that_is_not_there_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="no preset 'huge'; there are tiny, small, base"):
        VerifyRun(what="model", preset="huge").check()
