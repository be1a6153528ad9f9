"""Our prompts against those of RULER's own scripts, by facts that were taken from their output.

The scripts (github.com/NVIDIA/RULER at c3f5e3b) were run for all thirteen tasks at 4,096 tokens
with the embedded model's tokenizer, text and words of this project in place of their data. What
they made is kept here as figures and hashes; docs/tasks.md says what differs.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from needle_fakes import QA, build

from longctx.eval import tasks
from longctx.eval.texts import prose
from longctx.eval.texts.haystack import Haystack
from longctx.models.source import load_config, load_tokenizer, locate

LENGTH = 4096

# By task: the hash of the prompt's fixed words, how many answers are expected, how many tokens are
# left for them, and the longest prompt of three with that room, in tokens.
FACTS = {
    "niah_single_1": ("304c880a51c11806", 1, 128, 4061),
    "niah_single_2": ("304c880a51c11806", 1, 128, 4094),
    "niah_single_3": ("f92db7e52f286bf3", 1, 128, 4094),
    "niah_multikey_1": ("304c880a51c11806", 1, 128, 3440),
    "niah_multikey_2": ("304c880a51c11806", 1, 128, 4070),
    "niah_multikey_3": ("f92db7e52f286bf3", 1, 128, 4019),
    "niah_multivalue": ("a0b62a6a42ffebe8", 4, 128, 4089),
    "niah_multiquery": ("a0b62a6a42ffebe8", 4, 128, 4094),
    "vt": ("c41b30e707a3d2f0", 5, 30, 4073),
    "cwe": ("8ed918f78891b697", 10, 120, 4052),
    "fwe": ("0b7ed909ae60c76d", 3, 50, 3774),
    "qa_1": ("aca33a0542adb434", 1, 32, 4072),
    "qa_2": ("aca33a0542adb434", 1, 32, 4030),
}


def skeleton(task: str, text: str, prefix: str) -> str:
    """The fixed words of a prompt; what is drawn stands as {}, spaces at the ends do not count."""
    if task.startswith("qa_"):
        head = text.partition("Document 1:")[0]
        tail = "Answer the question based" + text.rpartition("Answer the question based")[2]
        tail = re.sub(r"(?<=Question: ).*", "{}", tail)
    elif task == "fwe":
        head, _, rest = text.partition("coded words. ")
        tail = rest[rest.index("\nQuestion:") :]
    else:
        head, tail = text.splitlines()[0], text.splitlines()[-1]
    drawn = r"(?<= for ).*(?= mentioned)|(?<=the value )\d+"
    parts = (head, re.sub(drawn, "{}", tail), re.sub(drawn, "{}", prefix))
    return "\n".join(part.strip() for part in parts)


@pytest.fixture(scope="module")
def embedded() -> Any:
    source = locate("embedded")
    load_config(source)
    return load_tokenizer(source)


@pytest.fixture(scope="module")
def text() -> Haystack:
    return prose.haystack(LENGTH)


@pytest.mark.parametrize("task", FACTS)
def test_prompts_are_rulers(embedded: Any, text: Haystack, task: str) -> None:
    digest, answers, budget, longest = FACTS[task]
    asks_files = tasks.get(task).about.questions
    source = Haystack.from_text(json.dumps(QA), "qa.json") if asks_files else text
    length = LENGTH if not asks_files else 1024
    prompt = build(task, embedded, source, length=length)
    user, prefix = prompt.conversation.user, prompt.conversation.answer_prefix
    found = skeleton(task, user, prefix)
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == digest, found
    if task != "qa_1" and task != "qa_2":
        assert len(prompt.sample.expected) == answers
    assert tasks.get(task).about.answer_tokens == budget
    assert prompt.sample.match == ("part" if asks_files else "all")
    # The length holds prompt, answer prefix and the room for the answer: neither is longer, and
    # ours comes as near as a unit of its text lets it.
    taken = len(prompt.ids) + budget
    assert taken <= length and longest <= LENGTH
    if not asks_files:
        assert LENGTH - taken < 120


def test_all_thirteen_are_there() -> None:
    assert list(FACTS) == [task.about.name for task in tasks.RULER]


def test_the_example_of_vt_and_cwe_is_before_every_prompt(embedded: Any, text: Haystack) -> None:
    """RULER's example of vt has as many lines of noise as 500 tokens hold (9 with this tokenizer)
    and variables of three letters; that of cwe 40 words, ten of them ten times, the others 3."""
    vt = build("vt", embedded, text, length=LENGTH).conversation.user
    example, rest = vt.split("they are: ", 1)
    assert len(re.findall(r"^VAR [A-Z]{3} = ", example, re.M)) == 5
    assert len(re.findall(r"^VAR [A-Z]{5} = ", rest, re.M)) == 5
    assert all(line.startswith("VAR ") for line in vt.splitlines() if " = " in line)  # own lines
    cwe = build("cwe", embedded, text, length=LENGTH).conversation.user
    assert cwe.count("Question: What are the 10 most common words") == 2
    shown = re.findall(r"\d+\. ([\w-]+)", cwe.partition("\nQuestion: What are the 10")[0])
    assert sorted({shown.count(word) for word in shown}) == [3, 10] and len(set(shown)) == 40
