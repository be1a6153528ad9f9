"""Write a Llama without biases as a Qwen2: the same logits, in a class that vLLM gives chunks to.

    python -m longctx.models.llama_as_qwen2 LLAMA OUTDIR

Qwen2 is Llama with biases on queries, keys and values; here they are 0. Weights keep their names,
values and type. Knows only the conversion. The directory appears whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from longctx.errors import UserError

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
# Of a Llama's config, and unknown to Qwen2's.
_FOREIGN = ("attention_bias", "mlp_bias", "pretraining_tp", "_model_name_or_path")


def convert(llama: Path, directory: Path) -> None:
    """Write `directory`, which must not exist yet.

    Raises:
        UserError: it does, or LLAMA is none, or has what Qwen2 has not.
    """
    if directory.exists():
        raise UserError(f"OUTDIR {directory}: it exists already: remove it or name another")
    config = qwen2_config(_read_config(llama), f"LLAMA {llama}")
    if not (llama / _WEIGHTS).is_file():
        raise UserError(f"LLAMA {llama}: has no {_WEIGHTS}: give a model whose weights are one")

    from safetensors.torch import load_file, save_file

    weights = load_file(llama / _WEIGHTS)
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj"):
            rows = weights[name].new_zeros(weights[name].shape[0])
            weights[name.removesuffix("weight") + "bias"] = rows

    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for file in llama.iterdir():
            if file.is_file() and file.name not in (_WEIGHTS, _CONFIG):
                shutil.copyfile(file, draft / file.name)
        save_file(weights, draft / _WEIGHTS, {"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (draft / _CONFIG).write_text(text, encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp makes it 0700, and safetensors writes files as 0600
        for file in draft.iterdir():
            file.chmod(0o644)
        os.rename(draft, directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def qwen2_config(config: dict[str, Any], what: str) -> dict[str, Any]:
    """Of the same model as a Qwen2.

    Raises:
        UserError: the model is no Llama, or its layers have what Qwen2's have not.
    """
    if config.get("model_type") != "llama":
        raise UserError(f"{what}: its model_type is {config.get('model_type')!r}: give a llama")
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            raise UserError(f"{what}: {name} is true, and Qwen2 has no place for all of it")
    heads = config["hidden_size"] // config["num_attention_heads"]
    if config.get("head_dim") not in (None, heads):
        raise UserError(
            f"{what}: head_dim is {config['head_dim']}, and Qwen2's is hidden_size / "
            f"num_attention_heads = {heads}"
        )
    kept = {name: value for name, value in config.items() if name not in (*_FOREIGN, "head_dim")}
    made = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    return kept | made | {"use_sliding_window": False}


def _read_config(llama: Path) -> dict[str, Any]:
    try:
        text = (llama / _CONFIG).read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"LLAMA {llama}: {_CONFIG} cannot be read ({error})") from error
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m longctx.models.llama_as_qwen2",
        description="Write a Llama without biases as a Qwen2 with the same logits.",
    )
    parser.add_argument("llama", metavar="LLAMA", type=Path)
    parser.add_argument("directory", metavar="OUTDIR", type=Path)
    options = parser.parse_args(arguments)
    try:
        convert(options.llama, options.directory)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
