"""Tool calls in a stream: found wherever the text is cut, and nothing is lost."""

from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.chat.tools import (
    ContentPiece,
    Piece,
    ToolCall,
    ToolCallArguments,
    ToolCallParser,
    ToolCallStart,
    parse_call,
)

OSLO = '{"name": "weather", "arguments": {"place": "Oslo"}}'
CALL = f"<tool_call>\n{OSLO}\n</tool_call>"
STARTED = [ToolCallStart(0, "0", "weather"), ToolCallArguments(0, '{"place": "Oslo"}')]


def parse(*texts: str) -> list[Piece]:
    ids = count()
    parser = ToolCallParser(lambda: str(next(ids)))
    return joined([piece for text in texts for piece in parser.feed(text)] + parser.close())


def joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring pieces of one content, or of one call's arguments, as one."""
    whole: list[Piece] = []
    for piece in pieces:
        last = whole[-1] if whole else None
        if isinstance(piece, ContentPiece) and isinstance(last, ContentPiece):
            whole[-1] = ContentPiece(last.text + piece.text)
        elif isinstance(piece, ToolCallArguments) and isinstance(last, ToolCallArguments):
            whole[-1] = ToolCallArguments(piece.index, last.text + piece.text)
        else:
            whole.append(piece)
    return whole


def test_a_call_alone() -> None:
    assert parse(CALL) == STARTED


def test_content_before_between_and_behind() -> None:
    text = f"Let me look.\n{CALL}\n and \n{CALL}\nDone. \n"
    assert parse(text) == [
        ContentPiece("Let me look."),
        *STARTED,
        ContentPiece("\n and"),
        ToolCallStart(1, "1", "weather"),
        ToolCallArguments(1, '{"place": "Oslo"}'),
        ContentPiece("\nDone. \n"),
    ]


def test_layout_around_calls_is_no_content() -> None:
    pieces = parse(f"\n{CALL}\n{CALL}\n")
    assert [type(piece) for piece in pieces] == [ToolCallStart, ToolCallArguments] * 2


def test_text_without_calls_comes_out_as_it_is() -> None:
    assert parse(" a <b> \n\n") == [ContentPiece(" a <b> \n\n")]
    assert parse("  ") == [ContentPiece("  ")]
    assert parse("") == []


def test_arguments_are_as_the_model_wrote_them() -> None:
    written = '{ "b":1,"a" : [1.0, "\\u00e9 <\\/tool_call> </tool_call> } \\" {"] }'
    assert parse(f'<tool_call>{{"arguments":{written} ,"name" :"f"}}</tool_call>') == [
        ToolCallStart(0, "0", "f"),
        ToolCallArguments(0, written),
    ]


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('{"name": "f"}', ToolCall("f", "{}")),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', ToolCall("f", '{"a": 1}')),
        ('{"name": "f", "arguments": {}}', ToolCall("f", "{}")),
        ('{"name": "f", "arguments": [1]}', None),
        ('{"name": "f", "arguments": null}', None),
        ('{"name": "f", "arguments": "no"}', None),
        ('{"name": "f", "arguments": {"a": NaN}}', None),
        ('{"name": "f", "argument": {}}', None),
        ('{"name": "", "arguments": {}}', None),
        ('{"name": "\\ud800", "arguments": {}}', None),
        ('{"name": "f", "arguments": "{\\"a\\": \\"\\ud800\\"}"}', None),
        ('{"name": 1, "arguments": {}}', None),
        ('{"arguments": {}}', None),
        ("{}", None),
        ('["name"]', None),
    ],
)
def test_what_is_a_call(text: str, call: ToolCall | None) -> None:
    assert parse_call(text) == call


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nweather(Oslo)\n</tool_call>",
        '<tool_call>\n{"name": "f", "arguments": {]}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {}}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {"a": "',
        '<tool_call>\n{"name": ' + "[" * 100_000 + "]" * 100_000 + "}</tool_call>",
        "<tool_call>",
        "text  <tool_call>  ",
        "</tool_call>",
        "text <tool_ca",
    ],
)
def test_what_is_no_call_is_given_back(text: str) -> None:
    assert parse(text) == [ContentPiece(text)]


def test_a_call_may_follow_what_was_none() -> None:
    broken = '<tool_call>\n{"name": "f", "arguments": {"a": \n'
    assert parse(f"{broken}{CALL}") == [ContentPiece(broken.rstrip()), *STARTED]


@pytest.mark.parametrize("end", ["", "\n", "\n</tool", " <"])
def test_a_complete_call_counts_without_its_closing_tag(end: str) -> None:
    """Answers in a grammar, and answers that were cut, end with the JSON."""
    assert parse(f"<tool_call>\n{OSLO}{end}") == STARTED


def test_content_comes_out_before_the_answer_ends() -> None:
    parser = ToolCallParser()
    assert parser.feed("Hello there, ") == [ContentPiece("Hello there,")]
    assert parser.feed("a < b <too") == [ContentPiece(" a < b")]
    assert parser.feed("ls>.") == [ContentPiece(" <tools>.")]


def test_ids_are_unique() -> None:
    pieces = ToolCallParser().feed(CALL * 3)
    ids = {piece.id for piece in pieces if isinstance(piece, ToolCallStart)}
    assert len(ids) == 3
    assert all(id.startswith("call_") and len(id) == 29 for id in ids)


PARTS = st.sampled_from(
    [
        *(
            "<tool_call>",
            "</tool_call>",
            "<tool",
            "_call>",
            "<",
            "{",
            "}",
            '"',
            "\\",
            "\n",
            " ",
            "a",
        ),
        *("[1]", OSLO, CALL, f"\n{CALL}\n", "text. "),
        '{"name": "f", "arguments": {"a": "</tool_call>"}}',
    ]
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(PARTS, max_size=12), st.data())
def test_cuts_change_nothing(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(*pieces) == parse(text) == parse(*text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(PARTS, max_size=12))
def test_nothing_is_lost(parts: list[str]) -> None:
    """Put together again, contents and calls are the text, but for white space and closing tags."""
    text = "".join(parts)
    again = ""
    for piece in parse(text):
        match piece:
            case ContentPiece(said):
                again += said
            case ToolCallStart(_, _, name):
                again += f'<tool_call>{{"name": {json.dumps(name)}, "arguments": '
            case ToolCallArguments(_, written):
                again += f"{written}}}</tool_call>"
    squeezed = "".join(text.split())
    assert "".join(again.split()).startswith(squeezed[: squeezed.rfind("<tool_call>") + 1])
    assert "".join(again.split()).replace("</tool_call>", "") in (
        squeezed.replace("</tool_call>", ""),
        # A cut closing tag behind a complete call is layout.
        *(squeezed.replace("</tool_call>", "")[:-n] for n in range(1, 12)),
    )
