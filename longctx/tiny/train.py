"""Train the embedded model from nothing: `python -m longctx.tiny.train --output DIR`.

A Qwen2 of about a million parameters is to learn to find needles inside a window of 512 tokens, in
two CPU cores' half hour. It never sees a longer prompt. Experimental: this recipe has
learnt the prose so far, and no retrieval.

Seeded; writes a checkpoint every few minutes and goes on from it when started again.

    tokenizer and prose pools from the seed
    for each step:  samples(seed, step) -> loss weighted by token -> AdamW
    last:           float16 safetensors, config, tokenizer into DIR
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional
from transformers import GenerationConfig, Qwen2ForCausalLM

from longctx.eval.runfolder.records import write_atomically
from longctx.tiny.data import DIGIT, FIRST_DIGIT, SampleMaker
from longctx.tiny.model import WINDOW, Tempered, make_model
from longctx.tiny.tokenizer import train_tokenizer

CHECKPOINT, LOG, RECIPE = "checkpoint.pt", "train.jsonl", "recipe.json"


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that the weights are a function of, but for the machine's rounding."""

    seed: int = 0
    tokens: int = 7_000_000
    # Muon for the matrices, AdamW for the embedding, norms and biases.
    matrix_rate: float = 4e-3
    vector_rate: float = 1e-2
    warmup_steps: int = 20
    final_share: float = 0.05  # of the learning rates, at the end of the cosine
    weight_decay: float = 0.05  # of the matrices
    pool_tokens: int = 3_000_000
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    # (length, share of all tokens, tokens a step): short prompts cost a third.
    phases: tuple[tuple[int, float, int], ...] = (
        (128, 0.15, 4096),
        (256, 0.20, 4096),
        (WINDOW, 0.65, 8192),
    )
    # This share of the tokens is the first lesson: plain copying, one needle.
    easy: float = 0.25
    # Later, logits are multiplied by a number from this range in half of the steps, so that the
    # model tolerates YaRN's temperature.
    logit_scales: tuple[float, float] = (0.75, 1.6)


class Step(NamedTuple):
    number: int
    length: int
    rows: int
    done: float  # share of all tokens before this step


def steps(recipe: TrainingRecipe) -> Iterator[Step]:
    done = index = 0
    for length, share, per_step in recipe.phases:
        for _ in range(round(share * recipe.tokens / per_step)):
            yield Step(index, length, per_step // length, done / recipe.tokens)
            done += per_step
            index += 1


def rate_share(recipe: TrainingRecipe, step: Step) -> float:
    """Share of the full learning rates at this step: a short ramp, then a cosine."""
    warm = min(1.0, (step.number + 1) / recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(step.done, 1.0)))
    return warm * (recipe.final_share + (1 - recipe.final_share) * cosine)


def train(
    recipe: TrainingRecipe,
    output: Path,
    *,
    threads: int | None = None,
    compile: bool = True,
    checkpoint_seconds: float = 300.0,
    stop_after_steps: int | None = None,
) -> None:
    """Train, or go on training, into the directory `output`; the model is written at the end.

    `stop_after_steps` ends early with a checkpoint, as an interruption would.
    """
    if threads:
        torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    tokenizer = train_tokenizer(recipe.seed)
    samples = SampleMaker(tokenizer, recipe.seed, recipe.pool_tokens)
    model = make_model(tokenizer, recipe.seed)
    tempered = Tempered(model.model.rotary_emb)
    model.model.rotary_emb = tempered
    optimizers = _optimizers(model, recipe)
    first = _resume(recipe, output, model, optimizers)
    loss_of = torch.compile(_loss, dynamic=False) if compile else _loss
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(f"{parameters:,} parameters, {recipe.tokens:,} tokens, from step {first}")

    saved = time.monotonic()
    plan = list(steps(recipe))
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        task = progress.add_task("", total=recipe.tokens)
        for step in plan[first:stop_after_steps]:
            began = time.monotonic()
            _set_rates(optimizers, recipe, step)
            tempered.set_scale(_logit_scale(recipe, step))
            batch = samples.batch(step.number, step.length, step.rows, easy=step.done < recipe.easy)
            ids, weights = torch.from_numpy(batch.ids), torch.from_numpy(batch.weights)
            loss, right = loss_of(model, ids, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

            speed = step.rows * step.length / (time.monotonic() - began)
            first_digit = float(right[weights == FIRST_DIGIT].float().mean())
            digits = float(right[weights == DIGIT].float().mean())
            words = (
                f"{step.length}: loss {float(loss.detach()):.3f}, first digit {first_digit:.2f}, "
            )
            words += f"others {digits:.2f}, {speed:,.0f} tokens/s"
            progress.update(task, description=words, completed=step.done * recipe.tokens)
            if step.number % 20 == 0:
                _log(output, step, float(loss.detach()), first_digit, digits, speed)
            if time.monotonic() - saved > checkpoint_seconds:
                _save_checkpoint(recipe, output, model, optimizers, step.number + 1)
                saved = time.monotonic()
    last = len(plan[:stop_after_steps])
    _save_checkpoint(recipe, output, model, optimizers, last)
    if last < len(plan):
        console.print(f"stopped after step {last}: the same command goes on")
        return
    model.model.rotary_emb = tempered.rotary
    write_model(model, tokenizer, recipe, output)
    (output / CHECKPOINT).unlink()
    console.print(f"wrote {output}")


def _loss(
    model: Qwen2ForCausalLM, ids: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean weighted cross-entropy, and which next tokens were guessed right, [B, T]."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1], use_cache=False).logits
    targets = ids[:, 1:]
    losses = functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    return (losses * weights).sum() / weights.sum(), logits.argmax(-1) == targets


def _logit_scale(recipe: TrainingRecipe, step: Step) -> float:
    draw = torch.rand(2, generator=torch.Generator().manual_seed(recipe.seed * 7919 + step.number))
    low, high = recipe.logit_scales
    hard = step.done >= recipe.easy
    return low + (high - low) * float(draw[1]) if hard and draw[0] < 0.5 else 1.0


def _optimizers(model: Qwen2ForCausalLM, recipe: TrainingRecipe) -> list[torch.optim.Optimizer]:
    embedding = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.matrix_rate,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [embedding, *vectors],
            lr=recipe.vector_rate,
            betas=recipe.betas,
            weight_decay=0.0,
            fused=True,
        ),
    ]


def _set_rates(optimizers: list[torch.optim.Optimizer], recipe: TrainingRecipe, step: Step) -> None:
    share = rate_share(recipe, step)
    rates = (recipe.matrix_rate, recipe.vector_rate)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = share * rate


def _save_checkpoint(
    recipe: TrainingRecipe, output: Path, model: torch.nn.Module, optimizers: list[Any], step: int
) -> None:
    incoming = output / f"{CHECKPOINT}.incoming"
    state = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "step": step,
    }
    torch.save({**state, "recipe": json.dumps(asdict(recipe))}, incoming)
    incoming.replace(output / CHECKPOINT)


def _resume(
    recipe: TrainingRecipe, output: Path, model: torch.nn.Module, optimizers: list[Any]
) -> int:
    path = output / CHECKPOINT
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    if state["recipe"] != json.dumps(asdict(recipe)):
        raise SystemExit(
            f"error: --output {output}: holds a run of another recipe: name another directory"
        )
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def _log(
    output: Path, step: Step, loss: float, first_digit: float, digits: float, speed: float
) -> None:
    values = (step.number, step.length, loss, first_digit, digits, speed)
    names = ("step", "length", "loss", "first_digit", "digits", "tokens_per_s")
    line = {name: round(value, 4) for name, value in zip(names, values, strict=True)}
    with (output / LOG).open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def write_model(model: Any, tokenizer: Any, recipe: TrainingRecipe, output: Path) -> None:
    """Weights as float16 safetensors, config, tokenizer and recipe."""
    model.half()
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    write_atomically(output / RECIPE, json.dumps(asdict(recipe), indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    default = TrainingRecipe()
    parser = argparse.ArgumentParser(
        prog="python -m longctx.tiny.train",
        description="Train the embedded needle model from nothing, on CPU.",
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for the model")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--tokens", type=int, default=default.tokens)
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--no-compile", action="store_true", help="start at once, run slower")
    options = parser.parse_args(arguments)
    if (options.output / "model.safetensors").exists():
        print(f"error: --output {options.output}: holds a model already", file=sys.stderr)
        return 2
    train(
        TrainingRecipe(seed=options.seed, tokens=options.tokens),
        options.output,
        threads=options.threads,
        compile=not options.no_compile,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
