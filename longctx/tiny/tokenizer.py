"""The embedded model's tokenizer: Qwen2's splitting rules over a small vocabulary of its own.

Trained on generated prose and on the needle task's own words. Digits are single tokens, as Qwen2
has them, so a number is copied digit by digit. Knows no model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from longctx.chat.template import CHATML
from longctx.eval.needle.needle import WORDINGS, needle_of
from longctx.eval.texts import prose
from longctx.tiny.words import training_key

VOCABULARY = 2048
# Evaluation draws its text from small seeds: training, the vocabulary's too, from others.
TEXT_SEED = 1_000_000
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Qwen's ChatML without its default system message.
_PARAGRAPHS = 6000
_NEEDLES = 4000


def train_tokenizer(seed: int) -> Any:
    """Byte-level BPE on the text that the model will be trained on."""
    plain = Qwen2Tokenizer()
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = plain.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(seed), trainer)
    made: dict[str, Any] = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=made["vocab"],
        merges=[tuple(pair) for pair in made["merges"]],
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        extra_special_tokens=[START],
        model_max_length=1 << 20,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def _texts(seed: int) -> Iterator[str]:
    for numbers in (False, True):
        yield from islice(prose.paragraphs(TEXT_SEED + seed, numbers=numbers), _PARAGRAPHS)
    rng = random.Random(seed)
    for index in range(_NEEDLES):
        needle = needle_of(training_key(rng), "", index % WORDINGS)
        yield f"{needle.introduction}\n\n{needle.statement}\n\n{needle.question}"
        yield f"user\nassistant\n{needle.answer_prefix} ."
