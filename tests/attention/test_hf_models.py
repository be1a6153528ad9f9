"""Extended transformers models against a dense model-level oracle: every family, every way in."""

import functools

import pytest
import torch
from oracle import DenseModel, dca_positions, plain_positions, relative_error
from tiny_models import FAMILIES, build, kv
from transformers import DynamicCache, StaticCache

from longctx.attention import extend
from longctx.attention.rope import temperature

CHUNK, LOCAL = 64, 16
LENGTHS = [1, 47, 48, 49, 63, 64, 65, 66, 100, 200, 333]
TOLERANCE = 1e-5
IDS = torch.randint(1, 97, (1, 333), generator=torch.Generator().manual_seed(5))


@functools.cache
def positions(length: int) -> torch.Tensor:
    return dca_positions(length, CHUNK, LOCAL, CHUNK)


@functools.cache
def oracle_logits(family: str, length: int, method: str = "dca") -> torch.Tensor:
    scale = temperature(length, CHUNK) ** 2 if method == "yarn+dca" else 1.0
    return DenseModel(build(family)).logits(IDS[:, :length], positions(length), scale)


def dca(model, method: str = "dca", **options):
    return extend(model, method, chunk_size=CHUNK, local_size=LOCAL, **options)


@torch.no_grad()
def in_blocks(model, ids: torch.Tensor, block: int, cache=None) -> torch.Tensor:
    cache = DynamicCache() if cache is None else cache
    logits = [
        model(ids[:, a : a + block], **kv(cache)).logits for a in range(0, ids.shape[1], block)
    ]
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_one_shot_equals_the_oracle_at_every_length(family, method) -> None:
    model = build(family)
    dca(model, method)
    for length in LENGTHS:
        with torch.no_grad():
            got = model(IDS[:, :length]).logits
        assert relative_error(got, oracle_logits(family, length, method)) < TOLERANCE, length


@pytest.mark.parametrize("family", FAMILIES)
def test_the_oracle_itself_equals_transformers_without_extension(family) -> None:
    model = build(family)
    with torch.no_grad():
        got = model(IDS[:, :200]).logits
    assert relative_error(got, DenseModel(model).logits(IDS[:, :200], plain_positions(200))) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block", [7, 50, 128])
def test_blocks_equal_the_oracle(family, block) -> None:
    model = build(family)
    dca(model)
    assert relative_error(in_blocks(model, IDS, block), oracle_logits(family, 333)) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("prefill_chunk_size", [None, 13])
@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_token_by_token_through_generate(family, cache, prefill_chunk_size, method) -> None:
    """From inside the first chunk across S, C and 2S; logits of every step."""
    model = build(family)
    dca(model, method)
    out = model.generate(
        IDS[:, :45],
        max_new_tokens=60,
        do_sample=False,
        cache_implementation=cache,
        prefill_chunk_size=prefill_chunk_size,
        output_logits=True,
        return_dict_in_generate=True,
    )
    sequence = out.sequences
    scale = temperature(45, CHUNK) ** 2 if method == "yarn+dca" else 1.0
    expected = DenseModel(build(family)).logits(sequence, positions(105), scale)[:, 44:-1]
    assert relative_error(torch.stack(out.logits, dim=1), expected) < TOLERANCE
    assert torch.equal(sequence[:, 45:], expected.argmax(-1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_generate_past_the_window_keeps_the_prompts_temperature(family, method) -> None:
    model = build(family)
    dca(model, method)
    out = model.generate(
        IDS[:, :150],
        max_new_tokens=12,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    scale = temperature(150, CHUNK) ** 2 if method == "yarn+dca" else 1.0
    expected = DenseModel(build(family)).logits(out.sequences, positions(162), scale)
    assert relative_error(torch.stack(out.logits, 1), expected[:, 149:-1]) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("block", [7, 50])
def test_half_precision_models_in_blocks(model_qwen2, dtype, block) -> None:
    """A block that starts inside a chunk is merged in fp32; it must come back in the dtype."""
    model_qwen2.to(dtype)
    dca(model_qwen2)
    with torch.no_grad():
        whole = model_qwen2(IDS).logits
    got = in_blocks(model_qwen2, IDS, block)
    assert got.dtype == dtype
    assert relative_error(got, whole) < 2e-2


PADDINGS = {
    "left": lambda n, width: [0] * (width - n) + [1] * n,
    "right": lambda n, width: [1] * n + [0] * (width - n),
    "interior": lambda n, width: [1] * (n // 2) + [0] * (width - n) + [1] * (n - n // 2),
}


def padded_batch(side: str, lengths=(200, 333, 70)):
    """Three prompts in one tensor; what lies under the padding is noise, not zeros."""
    width = max(lengths)
    mask_BL = torch.tensor([PADDINGS[side](n, width) for n in lengths])
    ids_BL = torch.randint(1, 97, mask_BL.shape, generator=torch.Generator().manual_seed(9))
    for row, n in enumerate(lengths):
        ids_BL[row, mask_BL[row] == 1] = IDS[0, :n]
    return ids_BL, mask_BL, lengths


def mask_positions(mask_BL: torch.Tensor) -> torch.Tensor:
    return (mask_BL.cumsum(-1) - 1).masked_fill(mask_BL == 0, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", PADDINGS)
@pytest.mark.parametrize("with_positions", [False, True])
@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_padded_batch_equals_each_prompt_alone(family, side, with_positions, method) -> None:
    model = build(family)
    dca(model, method)
    ids_BL, mask_BL, lengths = padded_batch(side)
    extra = {"position_ids": mask_positions(mask_BL)} if with_positions else {}
    with torch.no_grad():
        got = model(ids_BL, attention_mask=mask_BL, **extra).logits
    for row, n in enumerate(lengths):
        real = got[row][mask_BL[row] == 1][None]
        assert relative_error(real, oracle_logits(family, n, method)) < TOLERANCE, (side, n)


@pytest.mark.parametrize("side", PADDINGS)
@pytest.mark.parametrize("block", [50, 128])
def test_padded_batch_in_blocks(model_qwen2, side, block) -> None:
    dca(model_qwen2)
    ids_BL, mask_BL, lengths = padded_batch(side)
    cache, logits = DynamicCache(), []
    with torch.no_grad():
        for a in range(0, ids_BL.shape[1], block):
            out = model_qwen2(
                ids_BL[:, a : a + block],
                attention_mask=mask_BL[:, : a + block],
                **kv(cache),
            )
            logits.append(out.logits)
    got = torch.cat(logits, dim=1)
    for row, n in enumerate(lengths):
        real = got[row][mask_BL[row] == 1][None]
        assert relative_error(real, oracle_logits("qwen2", n)) < TOLERANCE


@pytest.mark.parametrize("side", ["left", "interior"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_padded_generate_equals_each_prompt_alone(model_qwen2, side, cache, method) -> None:
    dca(model_qwen2, method)
    ids_BL, mask_BL, lengths = padded_batch(side, (60, 110, 47))
    options = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": cache}
    together = model_qwen2.generate(ids_BL, attention_mask=mask_BL, **options)
    for row, n in enumerate(lengths):
        alone = model_qwen2.generate(IDS[:, :n], **options)
        assert torch.equal(together[row, -8:], alone[0, -8:])


def test_interior_holes_that_generate_infers_from_the_pad_id(model_qwen2) -> None:
    """A prompt that contains the pad id is masked there by generate itself."""
    dca(model_qwen2, "yarn+dca")
    ids = IDS[:, :120].clone()
    ids[:, [3, 50, 51, 90]] = 0
    options = {"max_new_tokens": 6, "do_sample": False}
    got = model_qwen2.generate(ids, **options)
    expected = model_qwen2.generate(ids[ids != 0][None], **options)
    assert torch.equal(got[0, -6:], expected[0, -6:])


@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_beams_and_samples(model_qwen2, method) -> None:
    """Beams reorder the cache; a batch of prompts keeps one temperature each."""
    dca(model_qwen2, method)
    options = {"max_new_tokens": 10, "num_beams": 3, "do_sample": False}
    ids_BL, mask_BL, lengths = padded_batch("left", (90, 130, 47))
    together = model_qwen2.generate(ids_BL, attention_mask=mask_BL, **options)
    for row, n in enumerate(lengths):
        alone = model_qwen2.generate(IDS[:, :n], **options)
        assert torch.equal(together[row, -10:], alone[0, -10:])
    chunked = model_qwen2.generate(IDS[:, :130], prefill_chunk_size=31, **options)
    assert torch.equal(chunked[0, -10:], together[1, -10:])
    samples = []
    for chunk in (None, 31):
        torch.manual_seed(1)
        samples.append(
            model_qwen2.generate(
                IDS[:, :130],
                do_sample=True,
                num_return_sequences=3,
                max_new_tokens=10,
                prefill_chunk_size=chunk,
            )
        )
    assert torch.equal(*samples)


def test_static_cache_in_blocks_and_with_capacity_to_spare(model_qwen2) -> None:
    dca(model_qwen2)
    cache = StaticCache(config=model_qwen2.config, max_cache_len=500)
    assert (
        relative_error(in_blocks(model_qwen2, IDS, 50, cache), oracle_logits("qwen2", 333)) < 1e-5
    )


def test_embeddings_instead_of_ids(model_qwen2) -> None:
    dca(model_qwen2)
    with torch.no_grad():
        embeds = model_qwen2.model.embed_tokens(IDS)
        got = model_qwen2(inputs_embeds=embeds).logits
    assert relative_error(got, oracle_logits("qwen2", 333)) < TOLERANCE


@pytest.mark.parametrize("kernel", ["reference", "torch_cpu", "auto"])
def test_the_kernel_asked_for_is_the_kernel_used(model_qwen2, kernel, monkeypatch) -> None:
    from longctx.attention import kernels

    used = []
    for name in ("reference", "torch_cpu"):
        cls = type(kernels.get(name))
        original = cls.__call__

        def spy(self, *args, _original=original, **kwargs):
            used.append(self.name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(cls, "__call__", spy)
    handle = dca(model_qwen2, kernel=kernel)
    with torch.no_grad():
        got = model_qwen2(IDS).logits
    # Blocks go through torch's op under the kernel that `auto` takes, whichever that is.
    assert set(used) == {"torch_cpu" if kernel == "auto" else kernel}
    cpu = torch.device("cpu")
    assert handle.kernel_name == kernels.resolve(kernel, cpu, torch.float32).name
    assert relative_error(got, oracle_logits("qwen2", 333)) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("holes", [2, 40])
def test_padding_between_tokens_is_as_if_it_was_not_there(holes) -> None:
    """Few holes are read in place, many through a copy; prefill, then two more tokens."""
    model = build("qwen2")
    generator = torch.Generator().manual_seed(holes)
    mask = torch.ones(2, 150 + 2, dtype=torch.long)
    for row in range(2):
        mask[row, torch.randperm(150, generator=generator)[:holes]] = 0
    tokens = torch.randint(1, 60, (2, 152), generator=generator)
    dca(model)
    cache = DynamicCache()
    got = [model(tokens[:, :150], attention_mask=mask[:, :150], **kv(cache)).logits]
    for at in (150, 151):
        block = {"attention_mask": mask[:, : at + 1], **kv(cache)}
        got.append(model(tokens[:, at : at + 1], **block).logits)
    for row in range(2):
        real = mask[row].bool()
        want = model(tokens[row : row + 1, real]).logits[0]
        assert relative_error(torch.cat(got, dim=1)[row, real], want) < TOLERANCE
