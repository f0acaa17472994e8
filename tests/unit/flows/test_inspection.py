"""What `failures` says of captions without a text."""

from flows.inspection import CaptionFate, FailureReport
from tasks.records import FailureClass


def failed(caption: str, why: str, failure: FailureClass = FailureClass.BUG) -> CaptionFate:
    return CaptionFate(caption=caption, outcome="failed", failure=failure, why=why)


def test_captions_that_begin_alike_keep_their_tracebacks() -> None:
    alike = "a person is talking to the camera in front of a white wall, " * 2
    captions = (failed(f"{alike} one", "Traceback\nof one"), failed(f"{alike} two", "Traceback\nof two"))
    text = FailureReport(policy="p", fates=(), tracebacks={"c1": "of a clip"}, captions=captions).text(True)
    assert all(f"Traceback\nof {which}" in text for which in ("one", "two"))
    assert "c1\nof a clip" in text


def test_of_what_says_itself_why_it_is_temporary_a_row_has_the_message_alone() -> None:
    why = "Traceback\ntasks.records.Temporary: disk: no room"
    assert failed("a man", why, FailureClass.DISK).row() == ("'a man'", "failed", "disk", "no room")
