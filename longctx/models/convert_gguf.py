"""Turn a GGUF file into a transformers directory: bfloat16 safetensors and the tokenizer.

    python -m longctx.models.convert_gguf MODEL.gguf OUTDIR

Knows only the conversion. The directory appears whole or not at all: it is written under another
name beside its place and renamed at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from longctx.errors import UserError


def convert(gguf: Path, directory: Path) -> None:
    """Write `directory`, which must not exist yet."""
    from longctx.models.source import load_config, load_model, load_tokenizer, locate

    if directory.exists():
        raise UserError(f"OUTDIR {directory}: it exists already: remove it or name another")
    source = locate(str(gguf))
    if source.kind != "gguf":
        raise UserError(f"FILE {gguf}: not a .gguf file: name one")

    import torch
    from transformers import GenerationConfig

    tokenizer = load_tokenizer(source)
    config = load_config(source)
    model = load_model(source, config, torch.bfloat16, "cpu")

    # The file's own path and quantization describe the source, not what is written here.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config.name_or_path = ""
    tokenizer.init_kwargs.pop("is_local", None)
    tokenizer.init_kwargs.pop("local_files_only", None)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        draft.chmod(0o755)  # mkdtemp makes it 0700, and safetensors writes files as 0600
        for file in draft.iterdir():
            file.chmod(0o644)
        os.rename(draft, directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m longctx.models.convert_gguf",
        description="Convert a GGUF file into a transformers directory (bfloat16 safetensors).",
    )
    parser.add_argument("gguf", metavar="FILE.gguf", type=Path)
    parser.add_argument("directory", metavar="OUTDIR", type=Path)
    options = parser.parse_args(arguments)
    try:
        convert(options.gguf, options.directory)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
