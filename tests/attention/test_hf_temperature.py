"""The temperature's channel: fixed by the prompt, per row, and never mixed in a cache."""

import pytest
import torch
from oracle import DenseModel, dca_positions, relative_error
from tiny_models import build, kv, made_by
from transformers import DynamicCache

from longctx.attention import extend, rope

IDS = torch.randint(1, 97, (1, 333), generator=torch.Generator().manual_seed(5))


def dca(model, method="dca", **options):
    return extend(model, method, chunk_size=64, local_size=16, **options)


@torch.no_grad()
def logits(model, ids=IDS, **extra):
    return model(ids, **extra).logits


def test_temperature_needs_the_prompts_length_on_a_non_empty_cache(model_qwen2) -> None:
    handle = dca(model_qwen2, "yarn+dca")
    cache = DynamicCache()
    logits(model_qwen2, IDS[:, :100], **kv(cache))
    with pytest.raises(RuntimeError, match=r"non-empty cache needs the prompt's length.*request"):
        logits(model_qwen2, IDS[:, 100:101], **kv(cache))
    with handle.request(100):
        got = logits(model_qwen2, IDS[:, 100:150], **kv(cache))
    scale = rope.temperature(100, 64) ** 2
    expected = DenseModel(build()).logits(IDS[:, :150], dca_positions(150, 64, 16, 64), scale)
    assert relative_error(got, expected[:, 100:]) < 1e-5


@pytest.mark.parametrize("block", [7, 50, 128])
def test_any_split_at_one_request_length(model_qwen2, block) -> None:
    dca(model_qwen2, "yarn+dca", request_length=333)
    expected = logits(model_qwen2)
    cache, got = DynamicCache(), []
    for a in range(0, 333, block):
        got.append(logits(model_qwen2, IDS[:, a : a + block], **kv(cache)))
    assert relative_error(torch.cat(got, dim=1), expected) < 1e-5


def test_request_length_fixes_the_temperature_of_every_prompt(model_qwen2) -> None:
    handle = dca(model_qwen2, "yarn+dca", request_length=333)
    got = logits(model_qwen2, IDS[:, :100])
    scale = rope.temperature(333, 64) ** 2
    expected = DenseModel(build()).logits(IDS[:, :100], dca_positions(100, 64, 16, 64), scale)
    assert relative_error(got, expected) < 1e-5
    with handle.request(64):
        cool = logits(model_qwen2, IDS[:, :100])
    assert relative_error(cool, expected) > 1e-3
    for bad in (0, -3, 1.5, True):
        with pytest.raises(ValueError, match="must be a positive whole number of tokens"):
            handle.request(bad).__enter__()


def test_rows_without_padding_may_differ_in_temperature(model_qwen2) -> None:
    handle = dca(model_qwen2, "yarn+dca")
    alone = []
    for length in (100, 333):
        with handle.request(length):
            alone.append(logits(model_qwen2))
    from longctx.attention.hf.prompt_length import serving

    with serving(handle, (100, 333)):
        together = logits(model_qwen2, IDS.expand(2, -1))
    assert relative_error(together, torch.cat(alone)) < 1e-5


def test_rows_that_belong_to_no_prompt_are_refused(model_qwen2) -> None:
    dca(model_qwen2, "yarn+dca")
    from longctx.attention import active
    from longctx.attention.hf.prompt_length import serving

    with (
        serving(active(model_qwen2), (100, 200)),
        pytest.raises(RuntimeError, match="3 rows do not belong to 2 prompts"),
    ):
        logits(model_qwen2, IDS.expand(3, -1))


def test_a_cache_made_at_another_temperature_is_never_mixed_in(model_qwen2) -> None:
    dca(model_qwen2, "yarn+dca")
    options = {"do_sample": False, "max_new_tokens": 4, "return_dict_in_generate": True}
    first = model_qwen2.generate(IDS[:, :100], **options)
    follow_up = torch.cat((first.sequences, IDS[:, :60]), dim=1)
    with pytest.raises(ValueError, match=r"the cache was filled with .*logits x 1\.0912.*needs"):
        model_qwen2.generate(follow_up, **kv(made_by(first)), **options)


@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_a_conversation_continues_on_its_cache_at_one_temperature(model_qwen2, method) -> None:
    extra = {"request_length": 200} if method == "yarn+dca" else {}
    dca(model_qwen2, method, **extra)
    options = {"do_sample": False, "max_new_tokens": 4, "return_dict_in_generate": True}
    first = model_qwen2.generate(IDS[:, :100], **options)
    follow_up = torch.cat((first.sequences, IDS[:, :60]), dim=1)
    cached = model_qwen2.generate(follow_up, **kv(made_by(first)), **options)
    fresh = model_qwen2.generate(follow_up, **options)
    assert torch.equal(cached.sequences, fresh.sequences)


def test_a_cache_of_another_scheme_is_refused(model_qwen2) -> None:
    cache = DynamicCache()
    with dca(model_qwen2):
        logits(model_qwen2, IDS[:, :100], **kv(cache))
    extend(model_qwen2, "dca", chunk_size=96, local_size=16)
    with pytest.raises(ValueError, match=r"filled with method dca, chunk_size 64.*96"):
        logits(model_qwen2, IDS[:, 100:], **kv(cache))
