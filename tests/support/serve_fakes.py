"""Templates of the kinds that are served, over tokenizers that come with the package."""

from __future__ import annotations

import copy
import json
from typing import Any

from transformers import AutoTokenizer

from longctx.tiny import WEIGHTS

# In the manner of Qwen2.5: tools as JSON, calls as JSON, results in a user turn.
QWEN25 = """\
{%- set own = messages[0].content if messages[0].role == 'system' else 'You are a helper.' -%}
{{- '<|im_start|>system\\n' + own }}
{%- if tools %}
    {{- '\\n\\n# Tools\\n\\nThe functions:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}{{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools>\\n\\nAnswer with:\\n<tool_call>\\n' }}
    {{- '{"name": <name>, "arguments": <object>}\\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- elif not (loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content or not message.tool_calls %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

# In the manner of Qwen3: thinking is taken out of answers before the last question.
THINKING = """\
{%- for message in messages %}
    {%- set content = message.content %}
    {%- set thought = message.reasoning_content or '' %}
    {%- if message.role == 'assistant' and not thought and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
        {%- set thought = thought.lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if thought and loop.last %}
        {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

# In the manner of Llama 3: contents are trimmed, headers are named.
TRIMMING = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n\\n' + message.content | trim + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}
"""

# In the manner of Mistral: turns alternate, and nobody may be anything else.
ALTERNATING = """\
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/...') }}
    {%- endif %}
    {{- '[INST] ' + message.content + ' [/INST]' if message.role == 'user' else message.content }}
{%- endfor %}
"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather at a "place".\nNow or later — Zürich too.',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where", "enum": ["Oslo", "Rome"]},
                "days ahead": {"type": ["integer", "null"], "minimum": 0, "default": 0},
            },
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}


def tokenizer(template: str | None = None) -> Any:
    """The embedded model's, with another template if one is given."""
    loaded = AutoTokenizer.from_pretrained(WEIGHTS)
    if template is not None:
        loaded.chat_template = template
    return loaded


def call(arguments: str = '{"place": "Oslo"}', name: str = "get_weather") -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        ],
    }


def result(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "call_1", "content": text}


CHAT = [
    {"role": "system", "content": "Be brief"},
    {"role": "user", "content": "What is the weather in Oslo, and in 山水?"},
    {"role": "assistant", "content": "I do not know yet.\n\nShall I look?"},
    {"role": "user", "content": "Yes: please do. "},
]


def decoded_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As templates want it."""
    messages = copy.deepcopy(messages)
    for message in messages:
        message["content"] = message["content"] or ""
        for made in message.get("tool_calls", []):
            made["function"]["arguments"] = json.loads(made["function"]["arguments"])
    return messages


def reference(tokenizer: Any, messages: list[dict[str, Any]], tools: Any = None) -> list[int]:
    """What transformers makes of it."""
    ids: list[int] = tokenizer.apply_chat_template(
        decoded_arguments(messages),
        tools=tools,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
    )
    return ids
