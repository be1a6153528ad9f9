"""docs/options.md is what the declarations say."""

from __future__ import annotations

import options_page


def test_the_page_of_options_is_as_generated() -> None:
    assert options_page.PAGE.read_text(encoding="utf-8") == options_page.page(), (
        "run `python tests/support/options_page.py`"
    )


def test_every_command_and_flag_is_on_the_page() -> None:
    page = options_page.page()
    assert "## longctx serve\n" in page
    assert "| `--max-waiting` | `256` | Requests that may wait; more are answered 429. |" in page
    assert "| `--prefill-chunk` | `2K` | Tokens per forward pass. |" in page
    assert "| `MODEL` | `embedded` | A directory, hub id or GGUF file." in page
    assert "| `--row` | needed | Line of results.jsonl; the first is 1. |" in page
    assert "| `--no-prefix-sharing` |  | Compute every prompt" in page
