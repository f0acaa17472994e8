"""Older and newer ledgers, on both databases."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tasks.ledger import Ledger, LedgerError, Row
from tasks.ledger_tables import MIGRATIONS, REVISIONS, metadata, upgrade
from tasks.records import Clip, CropBox, Frames, Stage

DATASET = "demo"


def clip(name: str, parent: str | None = None) -> Clip:
    return Clip(clip_id=name, source="folder", video_id=f"v-{name}", location=f"/videos/{name}.mp4", parent_id=parent)


def done(name: str, key: str = "k", feature: str = "", stage: Stage = Stage.CURATE) -> Row:
    return Row(
        clip_id=name, stage=stage, feature=feature, state="done", key=key, value={"path": f"{name}.mp4", "n": 1.5}
    )


def record(ledger: Ledger, *rows: Row, run_id: str = "run-1") -> None:
    with ledger.lease(DATASET, rows[0].stage, run_id) as lease:
        ledger.record(lease, rows)


def revised(ledger_url: str, revision: str) -> sa.Engine:
    """A database as an older release left it."""
    engine = sa.create_engine(ledger_url)
    with engine.begin() as connection:
        upgrade(connection, revision)
    return engine


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_older_ledger_is_upgraded_and_keeps_its_data(ledger_url: str, revision: str) -> None:
    if ledger_url.startswith("sqlite"):
        Path(ledger_url.removeprefix("sqlite:///")).parent.mkdir()
    engine = revised(ledger_url, revision)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO clips (dataset, clip_id, position, source, video_id, location, start_s, licence) "
                "VALUES ('demo', 'a', 0, 'folder', 'v-a', '/videos/a.mp4', 0.0, 'unknown')"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO states (dataset, clip_id, stage, feature, state, key, value, detail, attempts, "
                "run_id, updated_at) "
                "VALUES ('demo', 'a', 'curate', '', 'done', 'k', '{\"path\": \"a.mp4\"}', '', 0, 'old', 5.0)"
            )
        )
    engine.dispose()
    with Ledger(ledger_url) as ledger:
        assert list(ledger.clips(DATASET)) == [clip("a")]
        (row,) = ledger.rows(DATASET)
        assert (row.value, row.run_id, row.updated_at) == ({"path": "a.mp4"}, "old", 5.0)
        record(ledger, done("a", "k2"))
        with ledger.lease(DATASET, Stage.ACQUIRE, "run-2") as lease:
            assert ledger.relist(lease, "folder", []).left == 1
            assert (list(ledger.clips(DATASET)), ledger.rows(DATASET)) == ([], [])
            assert ledger.relist(lease, "folder", [clip("a")]).returned == 1
    with Ledger(ledger_url) as again:
        assert again.rows(DATASET)[0].key == "k2"


def test_what_a_list_says_beyond_the_span_comes_back_and_may_change(ledger: Ledger) -> None:
    frames, crop = Frames(first=3, end=78, fps=29.97), CropBox(left=0.5, top=0, right=9, bottom=8, frame_height=720)
    both = clip("a").model_copy(update={"frames": frames, "crop": crop})
    box = clip("b").model_copy(update={"crop": crop})
    ledger.add_clips(DATASET, [both, box, clip("c")])
    assert list(ledger.clips(DATASET)) == [both, box, clip("c")]
    ledger.add_clips(DATASET, [clip("a"), box.model_copy(update={"frames": frames})])
    assert [(one.frames, one.crop) for one in ledger.clips(DATASET)] == [(None, None), (frames, crop), (None, None)]
    told = clip("c").model_copy(update={"caption": "A man \u2764 'talks'."})
    ledger.add_clips(DATASET, [told])
    assert list(ledger.clips(DATASET))[2] == told
    assert ledger.clips_of(DATASET, ["c", "unknown"]) == [told]
    ledger.add_clips(DATASET, [clip("c")])
    assert list(ledger.clips(DATASET))[2] == clip("c")


def test_the_migrations_make_exactly_the_tables_that_are_declared(ledger: Ledger) -> None:
    from alembic.autogenerate import compare_metadata

    script = ScriptDirectory(str(MIGRATIONS))
    assert [step.revision for step in reversed(list(script.walk_revisions()))] == list(REVISIONS)
    with ledger._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
        found = sa.inspect(connection)
        for name, table in metadata.tables.items():
            assert set(found.get_pk_constraint(name)["constrained_columns"]) == {key.name for key in table.primary_key}


def test_a_newer_ledger_is_refused_and_left_alone(ledger_url: str) -> None:
    with Ledger(ledger_url) as ledger, ledger._writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match=r"revision 9999, written by a newer release; this one knows up to 0004"):
        Ledger(ledger_url)


def test_an_upgrade_is_all_or_nothing(ledger_url: str) -> None:
    if ledger_url.startswith("sqlite"):
        Path(ledger_url.removeprefix("sqlite:///")).parent.mkdir()
    revised(ledger_url, "0001").dispose()
    engine = sa.create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE runs (x INTEGER)"))  # the second revision stumbles over it
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(ledger_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE runs"))
    engine.dispose()
    Ledger(ledger_url).close()
