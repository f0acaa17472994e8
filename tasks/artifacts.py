"""What the Prefect UI shows: tables and galleries as markdown artifacts, each well under a megabyte.

Prefect keeps artifacts only as long as their runs, so nothing here is the record of anything.
"""

import base64
from collections.abc import Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from tasks.accounting import Account, Fate
from tasks.stages import StageSummary

GALLERY_CLIPS = 48
GALLERY_BYTES = 900_000


def publish(key: str, markdown: str, description: str) -> None:
    """Store a markdown artifact with the current flow run; without a run there is no UI to show it in."""
    if FlowRunContext.get() is not None:
        create_markdown_artifact(key=key, markdown=markdown, description=description)


def stage_markdown(summary: StageSummary) -> str:
    """Table of one stage run."""
    rows: list[tuple[str, int | str]] = [("done", summary.done)]
    rows += [(f"quarantined: {reason}", count) for reason, count in summary.impossible.items()]
    rows += [(f"failed: {failure}", count) for failure, count in summary.failed.items()]
    rows += [("there already", summary.kept)]
    changes = (("had been lost", summary.lost), ("left the list", summary.left), ("came back to it", summary.returned))
    rows += [(name, count) for name, count in changes if count]
    share = f" ({summary.available / summary.listed:.1%})" if summary.listed else ""
    rows.append((f"**there now, of {summary.listed}**", f"**{summary.available}**{share}"))
    lines = [f"| {name} | {count} |" for name, count in rows]
    brought = f", {summary.brought_in()}" if summary.num_bytes else ""
    head = [
        f"**{summary.stage}**: {summary.planned} to make, {summary.seconds:.1f} s{brought}",
        "",
        "| outcome | count |",
        "| --- | --- |",
    ]
    bad_lines = [f"- {problem}" for problem in summary.problems]
    if bad_lines:
        bad_lines.insert(0, f"\n{summary.num_problems} lines of the list could not be used, first of all:\n")
    return "\n".join(head + lines + bad_lines)


def account_markdown(account: Account) -> str:
    """Table of where all clips stand."""
    rows = [("passed", account.passed)]
    rows += [(f"quarantined: {reason}", count) for reason, count in account.quarantined.items()]
    rows += [(f"failed: {failure}", count) for failure, count in account.failed.items()]
    if account.waiting:
        rows.append(("waiting", account.waiting))
    rows.append(("**listed**", account.listed))
    return "\n".join(["| clips | count |", "| --- | --- |"] + [f"| {name} | {count} |" for name, count in rows])


def gallery_markdown(fates: Sequence[Fate], media_root: Path) -> str:
    """Pictures of clips with what became of them; failed and quarantined ones first. Bounded in clips and bytes."""
    order = {"failed": 0, "quarantined": 1, "passed": 2, "waiting": 3}
    shown, size = [], 0
    for fate in sorted(fates, key=lambda fate: order[fate.outcome])[:GALLERY_CLIPS]:
        picture = _data_uri(media_root, fate.thumbnail) if fate.thumbnail else ""
        size += len(picture)
        why = f": {fate.reason}, {fate.measured} {fate.threshold}".strip()[:240] if fate.reason else ""
        line = f"**{fate.outcome}** `{fate.clip_id}`{why}".replace("\n", " ")
        shown.append(f"{line}\n\n![{fate.clip_id}]({picture})" if picture and size <= GALLERY_BYTES else line)
    left_out = len(fates) - len(shown)
    foot = [f"{left_out} more are in the ledger: `dualforce status`, `dualforce failures`."] if left_out else []
    return "\n\n".join([*shown, *foot])


def _data_uri(root: Path, relative: str) -> str:
    path = root / relative
    if not path.is_file():
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
