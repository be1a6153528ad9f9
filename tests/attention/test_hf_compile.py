"""torch.compile of an extended model: one break, no step compiled anew, the numbers of eager.

Backend "eager" runs the graphs as they were found, "aot_eager" traces them once more, with the
operator's shapes and gradient; only the slow test needs a C++ compiler.
"""

import copy
import gc
import itertools
import logging
import shutil
import threading
from collections import Counter

import pytest
import torch
from dropin_helpers import ARGUMENTS, IDS, logits
from oracle import relative_error
from tiny_models import build, kv
from torch._dynamo.utils import counters
from transformers import DynamicCache, StaticCache

from longctx.attention import extend
from longctx.attention.hf import compiled, forward

GREEDY = {"do_sample": False, "pad_token_id": 0}
PADDED = torch.ones(3, 150, dtype=torch.long)
PADDED[0, :70], PADDED[2, :9] = 0, 0


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch):
    # It tells each guard to whoever listens, and pytest does: half of the time of these tests.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch.compiler.set_stance("default")
    torch._dynamo.reset()


def extended(method: str = "dca", **more):
    model = build()
    extend(model, method, **ARGUMENTS[method], **more)
    return model


def frames() -> Counter:
    return Counter(counters["frames"])


def test_a_forward_has_one_break_around_one_graph_of_all_layers() -> None:
    """It had 30: in hooks and in every layer."""
    model = extended()
    with torch.no_grad():
        found = torch._dynamo.explain(model)(IDS[:, :150])
    assert found.graph_break_count <= 3
    operators = [
        sum(node.target is torch.ops.longctx.attend.default for node in graph.graph.nodes)
        for graph in found.graphs
    ]
    assert sorted(operators)[-1] == model.config.num_hidden_layers
    assert sum(operators) == model.config.num_hidden_layers


@pytest.mark.parametrize(
    "method",
    [
        "yarn+dca",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("dca", "yarn-freqs+dca")),
    ],
)
def test_decoding_compiles_no_step_anew(method) -> None:
    """Every step has a plan of its own, and prompts have temperatures: none is guarded on."""
    model = extended(method)
    model.compile(backend="eager")
    for length in (40, 90):
        model.generate(IDS[:, :length], max_new_tokens=4, **GREEDY)
    settled = frames()
    assert settled["total"] <= 24
    torch.compiler.set_stance("fail_on_recompile")
    for length in (33, 100, 201):
        model.generate(IDS[:, :length], max_new_tokens=60, **GREEDY)
    assert frames() == settled


def test_decoding_into_a_static_cache_compiles_no_step_anew() -> None:
    model = extended("yarn+dca")
    model.compile(backend="eager")
    static = {"cache_implementation": "static", "max_length": 150}
    model.generate(IDS[:, :90], **static, **GREEDY)
    settled = frames()
    assert settled["total"] <= 24
    torch.compiler.set_stance("fail_on_recompile")
    model.generate(IDS[:, 100:190], **static, **GREEDY)
    assert frames() == settled


def compiling(model, backend="eager"):
    return torch.compile(model, backend=backend)


def test_a_compiled_prefill_has_the_numbers_of_eager() -> None:
    model = extended("yarn+dca")
    assert relative_error(logits(compiling(model, "aot_eager")), logits(model)) < 1e-5
    ids = IDS[:, :150].expand(3, -1)
    got, expected = (logits(m, ids, attention_mask=PADDED) for m in (compiling(model), model))
    real = PADDED.bool()
    assert relative_error(got[real], expected[real]) < 1e-5


@pytest.mark.parametrize("cached", ["dynamic", pytest.param("static", marks=pytest.mark.slow)])
@pytest.mark.parametrize("padded", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_steps_across_a_chunk_s_border_have_the_numbers_of_eager(cached, padded) -> None:
    model = extended("yarn+dca", request_length=200)
    rows, mask = (3, PADDED) if padded else (1, torch.ones(1, 150, dtype=torch.long))
    ids = IDS[:, :150].expand(rows, -1)
    bounds = (0, 60, 94, 95, 96, 97, 98, 150)  # chunks are 48 long

    def run(callee):
        config = {"config": model.config}
        cache = DynamicCache() if cached == "dynamic" else StaticCache(max_cache_len=160, **config)
        steps = []
        for start, stop in itertools.pairwise(bounds):
            told = {"attention_mask": mask[:, :stop]} if padded else {}
            steps.append(logits(callee, ids[:, start:stop], **told, **kv(cache)))
        return torch.cat(steps, dim=1)[mask.bool()]

    assert relative_error(run(compiling(model)), run(model)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in place", "forward", "layers"])
def test_every_way_of_compiling_generates_the_tokens_of_eager(how) -> None:
    model = extended("yarn+dca")
    options = {"attention_mask": PADDED, "max_new_tokens": 8, **GREEDY}
    ids = IDS[:, :150].expand(3, -1)
    expected = model.generate(ids, **options)
    if how == "in place":
        model.compile(backend="aot_eager")
    elif how == "forward":
        model.forward = torch.compile(model.forward, backend="aot_eager")
    else:
        for layer in model.model.layers:
            layer.compile(backend="aot_eager", fullgraph=True)
    assert torch.equal(model.generate(ids, **options), expected)


def test_a_single_graph_is_refused_with_what_to_do_instead() -> None:
    """In our words, first, and not behind the compiler's own."""
    message = (
        r"^an extended model plans each forward on the host, outside any graph: "
        r"leave out fullgraph=True, or compile layer by layer, "
    )
    whole = torch.compile(extended(), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=message):
        logits(whole)


# As below.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_only_forwards_under_grad_mode_take_the_operator_that_refuses_backward() -> None:
    """What refuses is Python around every call; without gradients there is nothing to refuse."""
    model, taken = extended(), []

    def backend(graph, _):
        called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        taken.extend(name for name in called if name.startswith("longctx"))
        return graph

    whole = compiling(model, backend)
    logits(whole)
    assert taken == ["longctx.attend.default"] * model.config.num_hidden_layers
    taken.clear()
    whole(IDS)
    assert taken == ["longctx.attend_under_grad.default"] * model.config.num_hidden_layers


def test_methods_without_chunks_are_a_single_graph() -> None:
    model = extended("yarn")
    whole = torch.compile(model, backend="eager", fullgraph=True)
    assert relative_error(logits(whole), logits(model)) < 1e-5


def test_plans_of_threads_models_and_copies_do_not_mix(monkeypatch) -> None:
    """All forwards have made their plans, and go on layer by layer together."""
    models = [extended("dca"), extended("yarn+dca")]
    models.append(copy.deepcopy(models[0]))
    prompts = [IDS[:, first : first + 90] for first in (0, 50, 100)]
    expected = [logits(*pair) for pair in zip(models, prompts, strict=True)]
    for model in models:
        model.compile(backend="eager")
        logits(model, prompts[0])
    barrier, run = threading.Barrier(3), forward._run
    monkeypatch.setattr(forward, "_run", lambda *given: (barrier.wait(60), run(*given))[1])
    got = [None] * 3

    def work(at):
        got[at] = logits(models[at], prompts[at])

    threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(got, expected, strict=True):
        assert relative_error(one, other) < 1e-5


def test_a_forward_inside_another_has_its_own_plan() -> None:
    outer, inner = extended("dca"), extended("yarn+dca")
    expected, seen = logits(outer), []
    inside = torch.compiler.disable(lambda *_: seen.append(logits(inner, IDS[:, :70])))
    outer.model.layers[1].register_forward_pre_hook(inside)
    assert relative_error(logits(compiling(outer)), expected) < 1e-5
    assert relative_error(seen[0], logits(inner, IDS[:, :70])) < 1e-5


def test_a_plan_ends_with_its_forward() -> None:
    model = extended()
    logits(compiling(model, "aot_eager"))
    logits(model)
    gc.collect()
    assert len(compiled._plans) == 0
    q, k = torch.randn(1, 6, 5, 8), torch.randn(1, 2, 5, 8)
    with pytest.raises(RuntimeError, match="the plan of a forward that is over: call the model"):
        torch.ops.longctx.attend(q, k, k, torch.tensor([1]), 0.5)


# It looks at .grad of the tensor that it goes on with after the break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_forward_under_grad_mode_runs_and_backward_is_refused() -> None:
    model = extended()
    got = compiling(model, "aot_eager")(IDS).logits
    assert relative_error(got.detach(), logits(model)) < 1e-5
    with pytest.raises(RuntimeError, match=r"inference only.*call handle\.remove\(\)"):
        got.sum().backward()


def test_a_compiled_model_under_autocast() -> None:
    model = extended()
    with torch.autocast("cpu", torch.bfloat16):
        expected, got = logits(model), logits(compiling(model))
    assert relative_error(got, expected) < 2e-2


def test_remove_gives_the_compiled_model_back() -> None:
    model = build()
    expected = logits(model)
    handle = extend(model, "dca", **ARGUMENTS["dca"])
    model.compile(backend="eager")
    logits(model)
    handle.remove()
    assert relative_error(logits(model), expected) < 1e-5
    assert logits(model).shape == expected.shape


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_inductor_generates_the_tokens_of_eager(cache) -> None:
    model = extended("yarn+dca")
    options = {**GREEDY, **({"cache_implementation": "static"} if cache == "static" else {})}
    expected = [model.generate(IDS[:, :n], max_new_tokens=12, **options) for n in (40, 90)]
    model.compile()
    for n, tokens in zip((40, 90), expected, strict=True):
        assert torch.equal(model.generate(IDS[:, :n], max_new_tokens=12, **options), tokens)
