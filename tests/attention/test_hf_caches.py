"""A cache is continued only by what wrote it: before extend(), after remove(), in copies."""

import copy
import pickle

import pytest
import torch
from dropin_helpers import ARGUMENTS, IDS, logits
from oracle import relative_error
from tiny_models import build, kv, made_by
from transformers import DynamicCache, StaticCache

from longctx.attention import extend


def filled(model, tokens: int, cache=None):
    cache = DynamicCache() if cache is None else cache
    logits(model, IDS[:, :tokens], **kv(cache))
    return cache


def test_a_plain_cache_is_refused_under_scaled_frequencies(model_qwen2) -> None:
    """It was accepted, and the next token answered from keys at other frequencies."""
    cache = filled(model_qwen2, 40)
    extend(model_qwen2, "yarn-freqs+dca", **ARGUMENTS["yarn-freqs+dca"])
    message = r"holds 40 tokens that were not written under 'yarn-freqs\+dca'.*factor is 2\): start"
    with pytest.raises(ValueError, match=message):
        logits(model_qwen2, IDS[:, 40:41], **kv(cache))


def test_a_plain_cache_is_refused_at_a_temperature(model_qwen2) -> None:
    """It was accepted, though deeper layers' keys come from attention at another temperature."""
    cache = filled(model_qwen2, 40)
    extend(model_qwen2, "yarn+dca", request_length=200, **ARGUMENTS["yarn+dca"])
    with pytest.raises(ValueError, match=r"40 tokens .* another temperature \(logits x 1\.2"):
        logits(model_qwen2, IDS[:, 40:41], **kv(cache))


@pytest.mark.parametrize(
    ("method", "more"),
    [("dca", {}), ("yarn+dca", {"request_length": 64}), ("yarn-freqs+dca", {"factor": 1})],
)
def test_a_plain_cache_is_continued_where_the_numbers_are_the_same(
    model_qwen2, method, more
) -> None:
    cache = filled(model_qwen2, 40)
    extend(model_qwen2, method, **{**ARGUMENTS[method], **more})
    got = logits(model_qwen2, IDS[:, 40:64], **kv(cache))
    assert relative_error(got, logits(model_qwen2, IDS[:, :64])[:, 40:]) < 1e-5


@pytest.mark.parametrize("kind", ["dynamic", "static", "made by the model", "generated"])
def test_a_scheme_s_cache_is_refused_by_the_plain_model(model_qwen2, kind) -> None:
    with extend(model_qwen2, "dca", **ARGUMENTS["dca"]):
        if kind == "made by the model":
            with torch.no_grad():
                cache = made_by(model_qwen2(IDS[:, :100], use_cache=True))
        elif kind == "generated":
            options = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
            cache = made_by(model_qwen2.generate(IDS[:, :100], **options))
        else:
            static = StaticCache(config=model_qwen2.config, max_cache_len=200)
            cache = filled(model_qwen2, 100, static if kind == "static" else None)
    length = int(cache.get_seq_length())
    message = rf"holds {length} tokens that were written under 'dca', and this model runs without"
    for _ in range(2):
        with pytest.raises(ValueError, match=message) as error:
            logits(model_qwen2, IDS[:, 100:101], **kv(cache))
        assert "\n" not in str(error.value)
        assert cache.get_seq_length() == length
    with extend(model_qwen2, "dca", **ARGUMENTS["dca"]):  # and by its scheme it is continued
        logits(model_qwen2, IDS[:, 100:101], **kv(cache))


@pytest.mark.parametrize(
    ("method", "more", "why"),
    [
        ("yarn-freqs+dca", {}, r"at other frequencies \(factor is 2\)"),
        ("yarn+dca", {"request_length": 200}, "at another temperature"),
    ],
)
def test_a_short_cache_of_other_numbers_is_refused_by_the_plain_model(
    model_qwen2, method, more, why
) -> None:
    with extend(model_qwen2, method, **ARGUMENTS[method], **more):
        cache = filled(model_qwen2, 20)
    with pytest.raises(ValueError, match=why):
        logits(model_qwen2, IDS[:, 20:21], **kv(cache))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_the_guard_travels_with_copies(model_qwen2, copied) -> None:
    with extend(model_qwen2, "dca", **ARGUMENTS["dca"]):
        cache = copied(filled(model_qwen2, 100))
        again = copied(cache)
        expected = logits(model_qwen2, IDS[:, :101])[:, 100:]
        assert relative_error(logits(model_qwen2, IDS[:, 100:101], **kv(again)), expected) < 1e-5
    assert isinstance(cache, DynamicCache) and type(cache).__name__ == "DynamicCache"
    assert cache.get_seq_length() == 100
    with pytest.raises(ValueError, match="runs without it"):
        logits(model_qwen2, IDS[:, 100:101], **kv(cache))


def test_within_a_chunk_the_plain_model_continues_and_the_tag_is_gone(model_qwen2) -> None:
    """What the plain model then writes beyond the chunk is not taken for the scheme's."""
    expected = logits(model_qwen2, IDS[:, :100])[:, 40:]
    with extend(model_qwen2, "dca", **ARGUMENTS["dca"]):
        cache = filled(model_qwen2, 40)
    assert relative_error(logits(model_qwen2, IDS[:, 40:100], **kv(cache)), expected) < 1e-5
    assert type(cache) is DynamicCache
    extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    with pytest.raises(ValueError, match="holds 100 tokens that were not written under 'dca'"):
        logits(model_qwen2, IDS[:, 100:101], **kv(cache))


def test_an_emptied_or_cropped_cache_is_anybody_s(model_qwen2) -> None:
    plain = logits(model_qwen2, IDS[:, :100])
    static = StaticCache(config=model_qwen2.config, max_cache_len=200)
    with extend(model_qwen2, "dca", **ARGUMENTS["dca"]):
        filled(model_qwen2, 100, static)
        cropped = filled(model_qwen2, 100)
    static.reset()
    cropped.crop(-70)
    assert relative_error(logits(model_qwen2, IDS[:, :100], **kv(static)), plain) < 1e-5
    got = logits(model_qwen2, IDS[:, 30:100], **kv(cropped))
    assert relative_error(got, plain[:, 30:]) < 1e-5


def test_a_forward_that_fails_leaves_the_cache_guarded(model_qwen2) -> None:
    def fail(*_):
        raise KeyError("half-way")

    cache = DynamicCache()
    with extend(model_qwen2, "dca", **ARGUMENTS["dca"]):
        hook = model_qwen2.model.layers[1].register_forward_pre_hook(fail)
        with pytest.raises(KeyError, match="half-way"):
            filled(model_qwen2, 100, cache)
        hook.remove()
    with pytest.raises(ValueError, match="runs without it"):
        logits(model_qwen2, IDS[:, 100:101], **kv(cache))


def test_another_model_refuses_the_cache_too(model_qwen2) -> None:
    other = build()
    extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    cache = filled(model_qwen2, 100)
    with pytest.raises(ValueError, match="this model runs without it"):
        logits(other, IDS[:, 100:101], **kv(cache))
