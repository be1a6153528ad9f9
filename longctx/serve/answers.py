"""The two generating routes' common part: a body is read, a job submitted, its events followed.

Knows the order of things and who cancels what; the shapes of answers are the routes'.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from longctx.engine import ConstraintError, EngineRequest, Finished, Progress, Usage
from longctx.serve.errors import INTERNAL, ApiError, from_engine
from longctx.serve.jobs import Heard, Job, Submitted
from longctx.serve.schema import Body, Generate, parse
from longctx.serve.service import Service
from longctx.serve.shapes import check_shape
from longctx.serve.sse import ClientGoneError, SseResponse, unless_gone
from longctx.serve.workers import LARGE

B = TypeVar("B", bound=Body)
IGNORED_HEADER = "x-longctx-ignored-fields"
SMALL = 4096  # bytes of a body whose answer is put together at once


class AnswerShape(Protocol):
    """How one route's answers look. One object per request."""

    def chunks(self, heard: Heard) -> Sequence[dict[str, Any]]:
        """Of a stream; also collects what `whole` needs."""

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The answer in one piece."""

    def progress(self, progress: dict[str, Any]) -> Sequence[dict[str, Any]]:
        """Of a stream, while the prompt is read."""

    def last(self, usage: dict[str, Any], wanted: bool) -> Sequence[dict[str, Any] | str]:
        """Of a stream: what comes behind all chunks.

        Args:
            wanted: whether the client asked for the usage.
        """

    def failed(self, error: ApiError) -> Sequence[dict[str, Any] | str]:
        """Of a stream that has begun: its end by an error."""


async def read(request: Request, service: Service, kind: type[B]) -> B:
    """The body of a request, and in `request.state.size` its bytes; a large one is parsed in a
    worker thread.
    """
    try:
        raw = await request.body()
    except ClientDisconnect as error:
        raise ClientGoneError from error
    size = request.state.size = len(raw)
    if size < 65536:
        return parse(kind, raw)

    def parse_large() -> B:
        check_shape(raw, service.settings.limits.max_n * service.engine.max_context)
        if size >= LARGE:
            service.large_bodies.prove(raw)
        return parse(kind, raw)

    return await unless_gone(request.receive, service.workers.run(size, parse_large))


async def answer(
    request: Request,
    service: Service,
    body: Generate,
    job: Job,
    requests: Callable[[], Sequence[EngineRequest]],
    shape: AnswerShape,
    *,
    param: str,
    schema_param: str = "response_format",
    unused: Sequence[str] = (),
) -> Response:
    """Submit and answer, as a stream or in one piece.

    Args:
        requests: makes what is submitted.
        param, schema_param: the fields that hold the prompt and the schema, for errors.
        unused: fields without effect, beside those that the body knows of.
    """
    headers = ignored_header(body, unused)
    try:
        made = requests()
        submitted = service.submitted(job)
        await unless_gone(request.receive, submitted.start(made))
    except ClientGoneError:
        return Response(status_code=499)
    except ConstraintError as error:
        raise from_engine(error, param=schema_param) from error
    except Exception as error:
        raise _told(error, service, param) from error
    request.state.log.update(prompt_tokens=job.total)
    if body.stream:
        chunks = _stream(request, service, body, submitted, shape, schema_param)
        return SseResponse(
            chunks,
            keep_alive=service.settings.keep_alive,
            closed=submitted.close,
            failed=shape.failed,
            headers=headers,
        )
    try:
        await unless_gone(request.receive, _drain(submitted, shape))
    except ClientGoneError:
        return Response(status_code=499)
    except Exception as error:
        submitted.close("failed")
        blamed = schema_param if isinstance(error, ConstraintError) else param
        raise _told(error, service, blamed) from error
    finally:
        submitted.close()
        _account(request, service, job)

    # The log-probabilities of a long prompt are megabytes of JSON.
    def put_together() -> Response:
        return JSONResponse(shape.whole(usage_of(job)), headers=headers)

    size = request.state.size
    return put_together() if size < SMALL else await service.workers.run(size, put_together)


async def _drain(submitted: Submitted, shape: AnswerShape) -> None:
    async for heard in submitted.events():
        shape.chunks(heard)


async def _stream(
    request: Request,
    service: Service,
    body: Generate,
    submitted: Submitted,
    shape: AnswerShape,
    schema_param: str,
) -> AsyncIterator[dict[str, Any] | str]:
    job, told = submitted.job, None
    try:
        async for heard in submitted.events():
            if body.wants_progress and isinstance(heard.event, Progress | Finished):
                progress = job.prompt_progress()
                if progress["processed"] != told:
                    told = progress["processed"]
                    for chunk in shape.progress(progress):
                        yield chunk
            for chunk in shape.chunks(heard):
                yield chunk
        for end in shape.last(usage_of(job), body.wants_usage):
            yield end
    except ConstraintError as error:
        submitted.close("failed")
        raise from_engine(error, param=schema_param) from error
    except Exception:
        submitted.close("failed")
        raise
    finally:
        submitted.close()
        _account(request, service, job)


def usage_of(job: Job) -> dict[str, Any]:
    """Prompts are counted once each, not once per answer."""
    usages: list[Usage] = [job.usages[index] for index in sorted(job.usages)]
    prompt = sum(job.prompt_sizes)
    completion = sum(usage.completion_tokens for usage in usages)
    cached = sum(
        usages[at].cached_tokens for at in range(0, len(usages), max(1, job.answers_per_prompt))
    )
    details: dict[str, Any] = {"cached_tokens": cached}
    if job.documents is not None:
        details |= job.documents.usage(usages[0].cached_tokens if usages else 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
    }


def ignored_header(body: Body, unused: Sequence[str] = ()) -> dict[str, str]:
    names = sorted([*body.ignored(), *unused])
    if not names:
        return {}
    # Names come from the client: a header takes plain ASCII only.
    plain = ["".join(c if c.isascii() and c.isprintable() else "?" for c in n) for n in names]
    # Nor may it begin or end with a space.
    return {IGNORED_HEADER: ", ".join(plain)[:1000].strip()}


def _account(request: Request, service: Service, job: Job) -> None:
    usage = usage_of(job)
    request.state.log.update(
        state=job.state,
        completion_tokens=job.completion_tokens,
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
    )
    if job.first_token_s is not None:
        request.state.log["first_token_ms"] = round(1e3 * job.first_token_s, 1)
    if job.state == "done" and not job.accounted:
        job.accounted = True
        service.metrics.finished(job.first_token_s, job.elapsed_s)


def _told(error: Exception, service: Service, param: str) -> Exception:
    """Bugs go on as they are, to be logged with their traceback."""
    told: ApiError = from_engine(error, param=param, wait_s=service.registry.wait_s())
    return error if told.code == INTERNAL else told
