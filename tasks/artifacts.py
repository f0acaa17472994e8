"""What the Prefect UI shows: tables and galleries as markdown artifacts, each well under a megabyte.

Prefect keeps artifacts only as long as their runs, so nothing here is the record of anything.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from dualforce_model.media import MediaError
from tasks.accounting import Account, Fate, Outcome
from tasks.preview import shrunk
from tasks.stages import StageSummary

GALLERY_CLIPS = 32
GALLERY_BYTES = 900_000
GALLERY_WIDTH_PX = 500  # of a preview among others
MEASURED_CHARS = 240
ORDER: dict[Outcome, int] = {"failed": 0, "quarantined": 1, "passed": 2, "done": 3, "waiting": 4}


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


def gallery_markdown(fates: Iterable[Fate], media_root: Path) -> str:
    """Pictures of clips and what became of them, by outcome and reason. Bounded in clips and bytes, also while read.

    Each reason gets its turn before any gets a second one; what is left out is counted.
    """
    groups = _grouped(fates)
    shown = _in_turns(groups)
    parts, size, unseen = [], 0, 0
    for (outcome, reason), group in sorted(groups.items(), key=lambda item: (ORDER[item[0][0]], item[0][1])):
        parts.append(f"### {outcome}{f': {reason}' if reason else ''}, {group.count}")
        for fate in shown[outcome, reason]:
            picture = _data_uri(media_root, fate.thumbnail) if fate.thumbnail else ""
            fits = size + len(picture) <= GALLERY_BYTES
            size, unseen = (size + len(picture), unseen) if fits else (size, unseen + 1)
            parts.append(f"{_line(fate)}\n\n![{fate.clip_id}]({picture})" if picture and fits else _line(fate))
        if left := group.count - len(shown[outcome, reason]):
            parts.append(f"and {left} more")
    left_out = sum(group.count for group in groups.values()) - sum(len(chosen) for chosen in shown.values())
    foot = [f"{unseen} pictures did not fit on this page."] if unseen else []
    foot += [f"{left_out} more are in the ledger: `dualforce status`, `dualforce failures`."] if left_out else []
    return "\n\n".join([*parts, *foot])


@dataclass
class _Group:
    """Clips that ended alike: how many, and the first of them."""

    count: int = 0
    first: list[Fate] = field(default_factory=list)


def _grouped(fates: Iterable[Fate]) -> dict[tuple[Outcome, str], _Group]:
    groups: dict[tuple[Outcome, str], _Group] = {}
    for fate in fates:
        group = groups.setdefault((fate.outcome, str(fate.reason or "")), _Group())
        group.count += 1
        if len(group.first) < GALLERY_CLIPS:
            group.first.append(fate)
    return groups


def _in_turns(groups: Mapping[tuple[Outcome, str], _Group]) -> dict[tuple[Outcome, str], list[Fate]]:
    """The clips that are shown of each group."""
    shown: dict[tuple[Outcome, str], list[Fate]] = {name: [] for name in groups}
    turns = (
        (name, group.first[turn])
        for turn in range(GALLERY_CLIPS)
        for name, group in groups.items()
        if turn < len(group.first)
    )
    for name, fate in islice(turns, GALLERY_CLIPS):
        shown[name].append(fate)
    return shown


def _line(fate: Fate) -> str:
    """A clip in words. What was measured may quote strangers, so it is no markdown."""
    line = f"**{fate.outcome}** `{fate.clip_id}`"
    if fate.reason is None:
        return line
    measured = f": {_literal(fate.measured)}" if fate.measured else ""
    threshold = f", the threshold is {_literal(fate.threshold)}" if fate.threshold else ""
    return f"{line}: {fate.reason}{measured}{threshold}"


def _literal(text: str) -> str:
    return f"`{' '.join(text.replace('`', chr(39)).split())[:MEASURED_CHARS]}`"


def _data_uri(root: Path, relative: str) -> str:
    """A preview, shrunk; nothing where it is gone or no picture."""
    try:
        small = shrunk(root / relative, GALLERY_WIDTH_PX)
    except (FileNotFoundError, MediaError):
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(small).decode("ascii")
