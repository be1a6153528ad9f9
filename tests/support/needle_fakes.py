"""What the harness's tests stand on: small tokenizers, scripted targets, a tiny model on disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from longctx.chat.encoder import ChatEncoder
from longctx.chat.template import CHATML
from longctx.eval import tasks
from longctx.eval.needle.config import NeedleConfig
from longctx.eval.needle.grid import NeedleIdentity
from longctx.eval.needle.runner import Sweep
from longctx.eval.prompt import Prompt, PromptBuilder
from longctx.eval.protocol import Completion, Request, Session
from longctx.eval.spec import PromptSpec
from longctx.eval.texts import prose
from longctx.eval.texts.haystack import Haystack

LLAMA_LIKE = (
    "{{ bos_token }}{% for message in messages %}<|head|>{{ message.role }}<|/head|>"
    "{{ message.content | trim }}<|end|>{% endfor %}<|head|>assistant<|/head|>"
)
CHINESE = (
    "山不在高，有仙则名。水不在深，有龙则灵。斯是陋室，惟吾德馨！苔痕上阶绿，草色入帘青。" * 40
)


def english(characters: int = 200_000) -> str:
    text = prose.haystack(1024).text
    return text[: text.rindex(".", 0, characters) + 1]


def chatml_tokenizer() -> Any:
    """Byte-level BPE that splits digits, as SmolLM2's and Qwen's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([english(150_000)], trainer)
    return _wrap(tokenizer, eos_token="<|im_end|>", chat_template=CHATML)


def metaspace_tokenizer() -> Any:
    """Unigram with a space mark and a beginning-of-sequence token: all that the other is not."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=900,
        special_tokens=["<s>", "<unk>", "<|head|>", "<|/head|>", "<|end|>"],
        unk_token="<unk>",
        initial_alphabet=list("0123456789-:,;.山水"),
        show_progress=False,
    )
    tokenizer.train_from_iterator([english(100_000)], trainer)
    return _wrap(tokenizer, bos_token="<s>", eos_token="<|end|>", chat_template=LLAMA_LIKE)


def _wrap(tokenizer: Tokenizer, *, chat_template: str, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.chat_template = chat_template
    return wrapped


class Scripted(Session):
    """A session that plays a part, and remembers what it was asked."""

    def __init__(
        self,
        answer: Callable[[Request, str], str],
        finish_reason: Any = "stop",
        method: str = "none",
    ) -> None:
        super().__init__(method, {"method": method}, "scripted")
        self.answer, self.finish_reason = answer, finish_reason
        self.asked: list[Request] = []

    def generate(self, request: Request) -> Completion:
        self.asked.append(request)
        assert request.conversation is not None or self.finish_reason
        text = "" if request.conversation is None else request.conversation.user
        return Completion(self.answer(request, text), self.finish_reason, 0.01, 0.02)

    def logprobs(self, ids: Sequence[int], *, request_length: int) -> npt.NDArray[np.float64]:
        return np.zeros(max(len(ids) - 1, 0))


def reads_everything(request: Request, text: str) -> str:
    found = re.findall(r"(?<!\d)\d{7}(?!\d)", text)
    return f" {found[0]}." if found else " I do not know."


def reads_only(length: int) -> Callable[[Request, str], str]:
    def answer(request: Request, text: str) -> str:
        return reads_everything(request, text) if request.request_length <= length else " Nothing."

    return answer


def scheme(method: str = "none") -> dict[str, Any]:
    names = ("chunk_size", "local_size", "cap", "factor")
    return {"method": method, "L0": 1024, **dict.fromkeys(names)}


def make_sweep(
    tokenizer: Any,
    haystack: Haystack,
    methods: Sequence[str] = ("none",),
    **settings: Any,
) -> Sweep:
    defaults: dict[str, Any] = {"lengths": (512, 1024), "depths": (0.0, 50.0, 100.0), "repeats": 2}
    config = NeedleConfig(**{**defaults, **settings})
    chat = ChatEncoder(tokenizer, config.template)
    identity = NeedleIdentity(
        model="sha256:model",
        dtype="float32",
        kernel="auto",
        haystack_sha256=haystack.sha256,
        tokenizer_sha256="tokenizer",
        template_sha256=chat.sha256(config.system),
    )
    builder = PromptBuilder(haystack, chat, allow_repeat=config.allow_repeat)
    return Sweep(config, identity, builder, {method: scheme(method) for method in methods})


def save_tiny_model(directory: Path, tokenizer: Any) -> None:
    """A Llama of two layers with random weights: everything but sense."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


NUMBER = re.compile(r"(?<!\d)\d{7}(?!\d)")


UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


NEEDLE = re.compile(r"One of the special magic (\w+)s for (\S+) is: (\S+)\.")


QA = [
    {"question": f"Which colour has door {n}?", "answers": [f"blue{n}", f"Blue {n}"],
     "documents": [f"Door {n} of the house is blue{n}. It was painted long ago."]}
    for n in range(400)
]  # fmt: skip


def recipe(task: str, **changes: Any) -> PromptSpec:
    """A recipe of a task, in a language's own words, with everything else as it usually is."""
    about = tasks.get(task).about
    given = {"options": {}, "language": "en", **changes}
    options = tasks.options_of(task, given.pop("options"))
    values: dict[str, Any] = {
        "length": 4096,
        "depth": 50.0 if about.has_depth else None,
        "seed": 0,
        "repeat": 0,
        "answer_tokens": about.answer_tokens,
        "answer_prefix": tasks.get(task).answer_prefix(given["language"], options),
        "system": None,
        "exact": False,
        "allow_repeat": False,
        "haystack_sha256": "h",
        "tokenizer_sha256": "t",
        "template_sha256": "c",
        "wording_sha256": tasks.wording_sha256(task, given["language"], options),
        "task": task,
        "options": options,
    }
    return PromptSpec(**{**values, **given})


def build(task: str, tokenizer: Any, haystack: Haystack, **changes: Any) -> Prompt:
    """The prompt of `recipe`."""
    builder = PromptBuilder(haystack, ChatEncoder(tokenizer), allow_repeat=False)
    return builder.build(recipe(task, **changes))
