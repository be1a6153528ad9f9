"""The samples and the loop that the embedded model is to be trained with."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from longctx.eval.needle import needle
from longctx.tiny import data, model, train
from longctx.tiny.tokenizer import END, START, train_tokenizer
from longctx.tiny.words import training_key

RECIPE = train.TrainingRecipe(
    tokens=4096, pool_tokens=20_000, warmup_steps=2, phases=((128, 0.5, 512), (256, 0.5, 1024))
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(0)


@pytest.fixture(scope="module")
def samples(tokenizer) -> data.SampleMaker:
    return data.SampleMaker(tokenizer, 0, 60_000)


def test_the_tokenizer_is_small_and_splits_digits(tokenizer) -> None:
    assert len(tokenizer) == 2048
    assert tokenizer.convert_ids_to_tokens(tokenizer("is 4071")["input_ids"])[-4:] == list("4071")
    text = "It was late 古文, and Mist lay\n\nthere."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == f"{START}user\nhello{END}\n{START}assistant\n"


def test_training_never_asks_for_a_name_of_the_evaluation() -> None:
    rng = random.Random(0)
    keys = {training_key(rng) for _ in range(20_000)}
    assert len(keys) > 5000
    evaluated = {f"{a}-{b}" for a in needle._ADJECTIVES for b in needle._NOUNS}
    assert not keys & evaluated
    words = {word for key in keys for word in key.split("-")}
    assert not words & {*needle._ADJECTIVES, *needle._NOUNS}


@pytest.mark.parametrize("length", [128, 256, 512])
def test_samples_have_their_length_and_end_in_an_answer_from_the_text(
    tokenizer, samples, length
) -> None:
    rng, answers = random.Random(1), 0
    for _ in range(60):
        ids, weights = samples.sample(rng, length)
        assert len(ids) == length + 1
        assert len(weights) == length
        text = tokenizer.decode(ids)
        if text.startswith(START):
            answer = text[: -len(END)].rpartition(" ")[2].rstrip(".")
            assert answer.isdigit()
            assert text.count(answer) >= 2
            digits = tokenizer.decode(ids[1:][weights >= 5.0])
            assert digits.endswith(f"{answer}.")
            answers += 1
    assert answers > 30


def test_steps_are_a_function_of_seed_and_step(samples) -> None:
    first, again, other = (samples.batch(step, 128, 4) for step in (7, 7, 8))
    assert np.array_equal(first.ids, again.ids)
    assert not np.array_equal(first.ids, other.ids)


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train.train(RECIPE, whole, compile=False)
    train.train(RECIPE, halves, compile=False, stop_after_steps=3)
    assert not (halves / "model.safetensors").exists()
    with pytest.raises(SystemExit, match="holds a run of another recipe"):
        train.train(replace(RECIPE, seed=1), halves, compile=False)
    train.train(RECIPE, halves, compile=False)
    files = [(path / "model.safetensors").read_bytes() for path in (whole, halves)]
    assert files[0] == files[1]
    assert not (halves / train.CHECKPOINT).exists()


def test_a_directory_with_a_model_is_not_overwritten(tmp_path, capsys) -> None:
    (tmp_path / "model.safetensors").touch()
    assert train.main(["--output", str(tmp_path)]) == 2
    assert "holds a model already" in capsys.readouterr().err


def test_the_temperature_multiplies_logits_through_the_rotary(tokenizer) -> None:
    plain = model.make_model(tokenizer, 0).model.rotary_emb
    tempered = model.Tempered(plain)
    tempered.set_scale(2.25)
    x, position_ids = torch.zeros(1, 4, 128), torch.arange(4)[None]
    for got, expected in zip(tempered(x, position_ids), plain(x, position_ids), strict=True):
        assert torch.allclose(got, 1.5 * expected)


def test_two_heads_start_by_looking_at_the_tokens_before(tokenizer) -> None:
    fresh = model.make_model(tokenizer, 0)
    fresh.set_attn_implementation("eager")
    ids = torch.randint(3, 2048, (1, 100), generator=torch.Generator().manual_seed(0))
    weights_HLM = fresh(ids, output_attentions=True).attentions[0][0]
    rows = torch.arange(2, 100)
    for head, distance in ((0, 1), (2, 2)):
        assert weights_HLM[head, rows, rows - distance].mean() > 0.9
    assert weights_HLM[1, rows, rows - 1].mean() < 0.1
