"""What a demo's exit code says of its clips: one failure is planned, others are not."""

from pathlib import Path

import pytest

from dualforce_model.config import validate
from dualforce_model.storage import write_json
from flows.commands_run import unplanned_failures
from flows.pipeline import PipelineRun, save_config
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.records import Clip, FailureClass, Stage
from tasks.synthetic.corpus import MANIFEST, Corpus, CorpusItem
from tasks.synthetic.recipes import Kind

NETWORK, TIMEOUT = FailureClass.NETWORK, FailureClass.TIMEOUT


def demo_folder(out: Path, failed: dict[str, FailureClass]) -> Path:
    """A demo of three clips of which some failed; the server hangs up on `bad1` as planned."""
    expected = {"good1": "passed", "good10": "passed", "bad1": "network"}
    items = [
        CorpusItem.model_validate(
            {
                "name": name,
                "file": f"{name}.mp4",
                "kind": Kind.GOOD if end == "passed" else Kind.ALWAYS_RESET,
                "speaker": "astronaut",
                "expected": end,
                "seconds": 3,
            }
        )
        for name, end in expected.items()
    ]
    corpus = Corpus(key="k", size_px=256, items=tuple(items), utterances=())
    write_json(out / "corpus" / MANIFEST, corpus.model_dump(mode="json"))
    source = {"name": "hdtf", "folder": str(out / "corpus" / "list")}
    (out / "corpus" / "list").mkdir()
    place = {"dataset": "demo", "home": str(out)}
    save_config(validate(PipelineRun, {"place": place, "acquire": {"source": source}}, "test"))
    ids = {name: f"hdtf-RD_{name}-0-3000" for name in expected}
    rows = [
        Row(clip_id=ids[name], stage=Stage.ACQUIRE, state="failed", failure=failure, key="k", detail="x")
        for name, failure in failed.items()
    ]
    with Ledger(f"sqlite:///{out / 'ledger.db'}") as ledger, ledger.lease("demo", Stage.ACQUIRE, "run") as lease:
        ledger.add_clips("demo", [Clip(clip_id=i, source="hdtf", video_id=n, location="x") for n, i in ids.items()])
        ledger.record(lease, rows)
    return out


@pytest.mark.parametrize(
    ("failed", "unplanned"),
    [
        ({}, []),
        ({"bad1": NETWORK}, []),
        ({"bad1": TIMEOUT}, ["bad1"]),
        ({"bad1": NETWORK, "good10": NETWORK}, ["good10"]),
        ({"good1": NETWORK}, ["good1"]),
    ],
)
def test_only_the_planned_failure_is_none(
    tmp_path: Path, failed: dict[str, FailureClass], unplanned: list[str]
) -> None:
    out = demo_folder(tmp_path / "run", failed)
    assert unplanned_failures(out) == [f"hdtf-RD_{name}-0-3000" for name in unplanned]
