"""Forced calls: read as they come, several of them, and cut anywhere."""

from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.chat.forced import MOST_CALLS, ForcedCallParser, forced_call
from longctx.chat.messages import normalise
from longctx.chat.tools import ContentPiece, Piece, ToolCallArguments, ToolCallStart
from longctx.errors import UserError

TEXTS = ["x", 'a "quoted" }{ word', "</tool_call>", '{"name": "b", "arguments": {}}', "\\", "山"]
CALLS = [("a.b:c/d-e_f", {"text": text, "more": [{"n": 1}, []]}) for text in TEXTS]
BETWEEN = "\n</tool_call>\n<tool_call>\n"


def written(calls: list[tuple[str, dict[str, object]]]) -> str:
    return BETWEEN.join(
        f'{{"name": {json.dumps(name)}, "arguments": {json.dumps(given, ensure_ascii=False)}}}'
        for name, given in calls
    )


def read(pieces: list[Piece]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        assert not isinstance(piece, ContentPiece)
        if isinstance(piece, ToolCallStart):
            assert piece.index == len(calls)
            calls.append((piece.name, ""))
        else:
            assert isinstance(piece, ToolCallArguments) and piece.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.text)
    return calls


@settings(deadline=None)
@given(st.lists(st.sampled_from(CALLS), min_size=1, max_size=3), st.data())
def test_calls_are_read_however_the_text_is_cut_and_wherever_it_ends(
    calls: list[tuple[str, dict[str, object]]], data: st.DataObject
) -> None:
    whole = written(calls)
    text = whole[: data.draw(st.integers(0, len(whole)))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    ids = count()
    parser = ForcedCallParser(lambda: str(next(ids)))
    pieces: list[Piece] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        pieces += parser.feed(text[start:end])
    found = read(pieces + parser.close())
    for (name, arguments), (want, sent) in zip(found, calls, strict=False):
        assert name == want
        assert json.dumps(sent, ensure_ascii=False).startswith(arguments)
    if text == whole:
        assert [(name, json.loads(arguments)) for name, arguments in found] == calls


def test_arguments_are_handed_on_before_they_are_complete() -> None:
    parser = ForcedCallParser(lambda: "id")
    assert parser.feed('{"name": "weather"') == []
    assert parser.feed(', "arguments": {"place": "Os') == [
        ToolCallStart(0, "id", "weather"),
        ToolCallArguments(0, '{"place": "Os'),
    ]
    assert parser.feed('lo"}}') == [ToolCallArguments(0, 'lo"}')]


def tool(name: str, parameters: object = None) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_only_required_may_be_several() -> None:
    tools = [tool("a"), tool("b")]
    named = {"type": "function", "function": {"name": "a"}}
    most = [
        forced_call(tools, choice, parallel=parallel).most  # type: ignore[union-attr,arg-type]
        for choice in ("required", named)
        for parallel in (True, False)
    ]
    assert most == [MOST_CALLS, 1, 1, 1]


def test_arguments_are_an_object_whatever_their_schema_leaves_open() -> None:
    reference = {"$ref": "#/$defs/x", "$defs": {"x": {"type": "object"}}}
    forced = forced_call([tool("a", {"properties": {}}), tool("b", reference)], "required")
    assert forced is not None
    assert forced.schema["$defs"]["f0"] == {"properties": {}, "type": "object"}
    assert forced.schema["$defs"]["f1"]["$ref"] == "#/$defs/f1/$defs/x"


@pytest.mark.parametrize("id", ["call_1", "toolu_01.x", "functions.get:0", "a__thought__Zm9v+/=="])
def test_ids_and_names_of_gateways_are_taken(id: str) -> None:
    function = {"name": "server.tools:get/v1", "arguments": "{}"}
    call = {"id": id, "type": "function", "function": function}
    answer = {"role": "tool", "tool_call_id": id, "content": "x"}
    assert normalise([{"role": "assistant", "tool_calls": [call]}, answer])[1]["tool_call_id"] == id


@pytest.mark.parametrize("id", ["", "a b", "<|im_end|>", "a\n", "[INST]", "x" * 513, None])
def test_other_ids_are_not(id: str | None) -> None:
    call = {"id": id, "type": "function", "function": {"name": "a", "arguments": "{}"}}
    with pytest.raises(UserError, match=r"tool_calls\[0\]\.id: .* must be 1 to 512"):
        normalise([{"role": "assistant", "tool_calls": [call]}])
