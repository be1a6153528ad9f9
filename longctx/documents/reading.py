"""The text of a file that was handed in as a document."""

from __future__ import annotations

from longctx.errors import UserError


def text_of(raw: bytes, name: str, media_type: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The text, and what is to be said of how it was read.

    Args:
        media_type: as HTTP gives it; None: by the name.

    Raises:
        UserError: it is no text, or an empty one.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: is no text in UTF-8 (byte {error.start}): convert it, or hand in its text"
        ) from None
    if "\0" in text:
        raise UserError(f"{name}: is no text (it holds zero bytes): hand in its text")
    if not text.strip():
        raise UserError(f"{name}: is empty: hand in a text")
    return text, ()
