"""torch.compile of an extended model: no break, no step compiled anew, the numbers of eager.

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
from tiny_models import build, kv, made_by
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


def attends(graph) -> int:
    return sum(node.target is torch.ops.longctx.attend.default for node in graph.graph.nodes)


def test_a_forward_is_one_graph() -> None:
    """It had 30 breaks, in hooks and in every layer; then one, around the plan."""
    model = extended()
    with torch.no_grad():
        found = torch._dynamo.explain(model)(IDS[:, :150])
    assert found.graph_break_count == 0
    assert [attends(graph) for graph in found.graphs] == [model.config.num_hidden_layers]


def test_a_wrapper_that_is_compiled_breaks_around_the_plan_alone() -> None:
    """The hooks are inside the compiled code then."""
    model = extended()
    with torch.no_grad():
        found = torch._dynamo.explain(lambda ids: model(ids).logits)(IDS[:, :150])
    assert found.graph_break_count <= 8  # one around each call on the way to the hooks
    many = [attends(graph) for graph in found.graphs]
    assert sum(many) == max(many) == model.config.num_hidden_layers


# As the unextended model: prompt, first step, then steps of any length where keys grow.
@pytest.mark.parametrize(("cache", "graphs"), [("dynamic", 3), ("static", 2)])
def test_a_generate_has_no_break_and_few_frames(cache, graphs) -> None:
    model = extended("yarn+dca")
    model.compile(backend="eager")
    options = {"cache_implementation": "static"} if cache == "static" else {}
    model.generate(IDS[:, :90], max_new_tokens=12, **options, **GREEDY)
    assert sum(counters["graph_break"].values()) == 0
    assert counters["stats"]["unique_graphs"] == graphs
    assert counters["frames"]["total"] <= graphs + 2


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
    assert settled["total"] <= 6
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
    assert settled["total"] <= 6
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


@pytest.mark.parametrize("what", ["model", "forward", "decoder", "in place"])
def test_a_single_graph_is_what_there_is(what) -> None:
    model = extended("yarn+dca")
    expected = logits(model)
    if what == "model":
        model = torch.compile(model, backend="eager", fullgraph=True)
    elif what == "forward":
        model.forward = torch.compile(model.forward, backend="eager", fullgraph=True)
    elif what == "decoder":
        model.model.compile(backend="eager", fullgraph=True)
    else:
        model.compile(backend="eager", fullgraph=True)
    assert relative_error(logits(model), expected) < 1e-5


def test_a_single_graph_around_the_hooks_is_refused_with_what_to_do_instead() -> None:
    """In our words, first, and not behind the compiler's own."""
    message = (
        r"^an extended model plans each forward on the host, outside any graph: compile the "
        r"transformers model by itself, not what calls it, or leave out fullgraph=True\n"
    )
    model = extended()
    whole = torch.compile(lambda ids: model(ids).logits, backend="eager", fullgraph=True)
    with torch.no_grad(), pytest.raises(torch._dynamo.exc.Unsupported, match=message):
        whole(IDS)


@pytest.mark.parametrize("compile_it", [False, True])
def test_a_hook_that_changes_the_input_later_has_its_plan(compile_it) -> None:
    """The plan was made before that hook ran: the decoder sees that, and makes another."""
    model = extended()
    expected = [logits(model, IDS[:, :90]), logits(model, IDS[:, 5:95])]
    change = []

    def other_tokens(module, args, kwargs):
        if change:
            ids = kwargs.get("input_ids", *args)
            return (), {**kwargs, "input_ids": ids + 0, "attention_mask": change[0]}
        return None

    model.register_forward_pre_hook(torch.compiler.disable(other_tokens), with_kwargs=True)
    if compile_it:
        model.compile(backend="eager")
    assert relative_error(logits(model, IDS[:, :90]), expected[0]) < 1e-5
    change.append(torch.arange(95)[None] >= 5)
    assert relative_error(logits(model, IDS[:, :95])[:, 5:], expected[1]) < 1e-5
    change.clear()
    assert relative_error(logits(model, IDS[:, :90]), expected[0]) < 1e-5


def test_a_compiled_forward_that_fails_leaves_the_cache_closed() -> None:
    """A model without the scheme must not go on with it."""
    model, plain = extended(), build()

    def fail(*_):
        raise KeyError("in the middle")

    model.compile(backend="eager")
    cache = DynamicCache()
    logits(model, IDS[:, :90], **kv(cache))
    hook = model.lm_head.register_forward_pre_hook(torch.compiler.disable(fail))
    with pytest.raises(KeyError, match="in the middle"):
        logits(model, IDS[:, 90:95], **kv(cache))
    hook.remove()
    with pytest.raises(ValueError, match="were written under 'dca', and this model runs without"):
        logits(plain, IDS[:, 95:96], **kv(cache))


def test_a_cache_that_a_compiled_forward_made_is_tagged() -> None:
    model = extended()
    made = compiling(model)(IDS[:, :90], use_cache=True)
    with pytest.raises(ValueError, match="were written under 'dca', and this model runs without"):
        logits(build(), IDS[:, 90:91], **kv(made_by(made)))


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
