"""Text and reward engines over a server that speaks OpenAI's protocol. Know no row and no file.

The official client does retries, back-off and `Retry-After`. It belongs to the event loop that it
was made in, and every `.map` makes a new one, so it lives in a thread with a loop of its own.
"""

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from json import JSONDecodeError
from typing import Any

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    BadRequestError,
    Omit,
    OpenAIError,
    UnprocessableEntityError,
)

from prefdata.engines.reasoning import part_sent
from prefdata.errors import PrefdataError, RowError
from prefdata.inference import (
    Completion,
    Failure,
    Logits,
    ScoreRequest,
    TextRequest,
    ToolCall,
)
from prefdata.recipe.contract import Role
from prefdata.recipe.schema import PARAMETERS, Endpoint, Model

TOO_LARGE = 413
REFUSED_FOR_GOOD = {
    401: "the key was not accepted",
    403: "the key has no access to this model",
    404: "the model or the address was not found",
}
SEEDS = 2**31
"""Seeds are sent modulo this: not every server reads 64 bits."""
ALL_REFUSED = 8
"""Requests refused before any was answered that stop a run: the next will be refused too."""
LONGEST = 300
"""Characters of a server's message that are repeated."""
_ENDS = {
    None: "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
}
"""Names that servers have for what is `stop` or `length`; all others are kept as they are."""
_ATTRIBUTE = re.compile(r"[\w .-]+:\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")


class RemoteEngine:
    """One model behind a connection; at most `max_parallel_requests` are on their way at a time.

    As a reward model, a server that answers a finished chat with its attributes, as NVIDIA's do:
    one number per attribute, in the place of log-probabilities (Nemotron-4-340B-Reward) or as
    `name:number` in the text (Llama-3.1-Nemotron-70B-Reward).
    """

    def __init__(self, model: Model, role: Role, connection: "OpenAIConnection") -> None:
        """Ask nothing yet."""
        self._make: Callable[[Any], Coroutine[Any, Any, Any]]
        self._make = self._complete if role == "text" else self._score
        self._model, self._endpoint, self._connection = model, connection.endpoint, connection
        self._answered = self._refused = 0

    async def ask(self, requests: Sequence[Any]) -> AsyncIterator[tuple[int, Any]]:
        """As `Engine.ask`; what is left when the caller leaves is cancelled.

        A Failure is `refused_by_endpoint` (400, 413, 422), `content_filter`, `refusal`,
        `broken_text` or `no_content`.

        Raises:
            PrefdataError: the key or the model is refused, or the server does not come back.
        """
        loop = self._connection.loop
        futures = [asyncio.run_coroutine_threadsafe(self._make(one), loop) for one in requests]
        waiting = {asyncio.wrap_future(future): n for n, future in enumerate(futures)}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    place = waiting.pop(one)
                    try:
                        yield place, one.result()
                    except RowError as err:
                        yield place, Failure(err.reason, err.detail)
        finally:
            for one in waiting:
                if not one.cancel() and not one.cancelled():
                    one.exception()  # told by another request already

    def close(self) -> None:
        """As `Engine.close`; the connection is closed by whoever made it."""

    async def _complete(self, request: TextRequest) -> Completion:
        answer = await self._create(request.messages, self._parameters(request))
        choice = _only_choice(answer)
        said, reason = choice.message, _ENDS.get(choice.finish_reason, choice.finish_reason)
        thought = _thought(said)
        _refuse_nothing(said, reason, thought)
        _refuse_broken(said.content, thought)
        usage = answer.usage  # some servers do not count
        asked = (usage.prompt_tokens or 0) if usage else 0
        made = (usage.completion_tokens or 0) if usage else 0
        first = _first_logprobs(choice) if request.top_logprobs else None
        spec = self._model.reasoning
        read = part_sent(said.content or "", thought, spec, reason)
        read = replace(read, reasoning_tokens=_reasoning_tokens(usage))
        if calls := _calls(said):
            ended = "tool_calls" if read.finish_reason in ("stop", "empty") else read.finish_reason
            read = replace(read, tool_calls=calls, finish_reason=ended)
        return read.complete(asked, made, first)

    def _parameters(self, request: TextRequest) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed % SEEDS,
        }
        if request.tools:
            body["tools"] = [dict(tool) for tool in request.tools]
        if sampling.top_p != 1:
            body["top_p"] = sampling.top_p
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if request.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        if request.schema is not None and self._endpoint.structured_outputs:
            schema = {"name": "answer", "schema": dict(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        # no part of OpenAI's protocol, but of vLLM's and others'
        extra = {
            "top_k": sampling.top_k or None,
            "min_p": sampling.min_p or None,
            "repetition_penalty": sampling.repetition_penalty
            if sampling.repetition_penalty != 1
            else None,
            "chat_template_kwargs": dict(request.chat_template_kwargs) or None,
            "add_generation_prompt": False if request.continues else None,
            "continue_final_message": request.continues or None,
        }
        told = {name: value for name, value in extra.items() if value is not None}
        return _rename(body | told, self._endpoint.parameters)

    async def _score(self, request: ScoreRequest) -> Logits:
        choice = _only_choice(await self._create(request.messages, {}))
        if choice.logprobs is not None and choice.logprobs.content:
            return tuple(float(one.logprob) for one in choice.logprobs.content)
        numbers = _ATTRIBUTE.findall(choice.message.content or "")
        if not numbers:
            raise PrefdataError(
                f"model {self._model.alias!r} answers a finished chat with "
                f"{choice.message.content!r}, which holds no score; use a reward model, or rate "
                "with a rubric_judge"
            )
        return tuple(map(float, numbers))

    async def _create(self, messages: Sequence[Any], parameters: Mapping[str, Any]) -> Any:
        """The server's answer to a chat."""
        extra = {**parameters, **self._endpoint.extra_body}
        async with self._connection.slots:
            try:
                answer = await self._connection.client.chat.completions.create(
                    model=self._model.model,
                    messages=[dict(message) for message in messages],
                    extra_body=extra,
                    extra_headers=self._connection.headers,
                )
            except (OpenAIError, JSONDecodeError) as err:
                raise self._explain(err, extra) from err
        if not isinstance(getattr(answer, "choices", None), list):
            raise PrefdataError(
                f"{self._where} returned something that is not a chat completion: "
                f"{self._cut(repr(answer))}; check that the URL includes the version, as in https://host/v1"
            )
        self._answered += 1
        return answer

    def _explain(self, err: OpenAIError | JSONDecodeError, sent: Mapping[str, Any]) -> Exception:
        """What an error means: for the row, or for the run."""
        said, where = self._said(err), self._where
        status = err.status_code if isinstance(err, APIStatusError) else None
        if isinstance(err, BadRequestError | UnprocessableEntityError) or status == TOO_LARGE:
            self._refused += 1
            message = f"{where} returned status {status}: {said}{self._hint(said, sent)}"
            if self._refused >= ALL_REFUSED and not self._answered:
                return PrefdataError(f"{message} (for each of the first {ALL_REFUSED} requests)")
            return RowError("refused_by_endpoint", message)
        if status in REFUSED_FOR_GOOD:
            key = self._endpoint.api_key or "none was sent; name its variable with api_key"
            return PrefdataError(
                f"{where} returned status {status} for model {self._model.model!r}: "
                f"{REFUSED_FOR_GOOD[status]} ({said}); key: {key}"
            )
        what = f"returned status {status}: {said}" if status else f"could not be reached: {said}"
        if isinstance(err, APITimeoutError):
            what = f"took longer than {self._endpoint.timeout:g} s"
        if not isinstance(err, APIStatusError | APIConnectionError):
            what = f"returned an answer that could not be read: {said}"
        return PrefdataError(
            f"{where} {what}, after up to {self._endpoint.max_retries} retries; finished "
            "answers are kept, and the same command continues from there"
        )

    def _hint(self, said: str, sent: Mapping[str, Any]) -> str:
        """What a recipe can say to a server that refuses a parameter which was sent."""
        named = [name for name in PARAMETERS if name in sent and re.search(rf"\b{name}\b", said)]
        if named:
            is_renamed = named[0] == "max_tokens" and "max_completion_tokens" in said
            other = "max_completion_tokens" if is_renamed else "null"
            return (
                f"; if it does not know {named[0]}, give provider {self._endpoint.name!r} "
                f"parameters: {{{named[0]}: {other}}}"
                + ("" if is_renamed else ", or its own name for it")
            )
        if "response_format" in sent:
            return "; if it knows no response_format: structured_outputs: false"
        return ""

    def _said(self, err: Exception) -> str:
        cause = (
            f" ({err.__cause__})" if isinstance(err, APIConnectionError) and err.__cause__ else ""
        )
        return self._cut(f"{err}{cause}")

    @property
    def _where(self) -> str:
        return f"provider {self._endpoint.name!r} ({self._endpoint.endpoint})"

    def _cut(self, text: str) -> str:
        text = " ".join(text.split())
        if self._connection.key:  # a server may repeat it
            text = text.replace(self._connection.key, "***")
        return text if len(text) <= LONGEST else text[:LONGEST] + "…"


class OpenAIConnection:
    """The client of one endpoint, its thread and its limit of parallel requests."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect to nothing yet.

        Raises:
            PrefdataError: the environment variable with the key is not set.
        """
        self.endpoint, self.key = endpoint, _read_key(endpoint)
        # the client must be told for each request that it has no key
        self.headers = {} if self.key else {"Authorization": Omit()}
        self.client: Any = AsyncOpenAI(
            api_key=self.key or "none",
            base_url=endpoint.endpoint,
            timeout=endpoint.timeout,
            max_retries=endpoint.max_retries,
        )
        self.slots = asyncio.Semaphore(endpoint.max_parallel_requests)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name=f"remote-{endpoint.name}", daemon=True
        )
        self._thread.start()

    def open(self, model: Model, role: Role) -> RemoteEngine:
        """As `Connection.open`."""
        return RemoteEngine(model, role, self)

    def close(self) -> None:
        """Drop what is on its way, end the thread."""
        asyncio.run_coroutine_threadsafe(self._shut(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.close()


connect = OpenAIConnection
"""The way to a server, as `recipe/providers.py` looks for it."""


def _calls(said: Any) -> tuple[ToolCall, ...]:
    """The calls of a server's answer."""
    return tuple(
        {
            "id": one.id or f"call_{number}",
            "type": "function",
            "function": {"name": one.function.name, "arguments": one.function.arguments or "{}"},
        }
        for number, one in enumerate(getattr(said, "tool_calls", None) or ())
    )


def _rename(body: dict[str, Any], names: Mapping[Any, str | None]) -> dict[str, Any]:
    """The parameters under the names that a server knows, without those that it refuses."""
    called = {name: names.get(name, name) for name in body}
    return {called: body[name] for name, called in called.items() if called is not None}


def _read_key(endpoint: Endpoint) -> str | None:
    if endpoint.api_key is None:
        return None
    key = os.environ.get(endpoint.api_key, "").strip()
    if not key:
        raise PrefdataError(
            f"provider {endpoint.name!r}: the environment variable {endpoint.api_key} is not set; "
            "export the key under this name"
        )
    return key


def _only_choice(answer: Any) -> Any:
    if not answer.choices:
        raise RowError("no_content", "the server sent no answer")
    return answer.choices[0]


def _thought(message: Any) -> str | None:
    """What the server has parted from the answer; there are two names for it."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(told := getattr(message, name, None), str) and told:
            return told
    return None


def _refuse_nothing(message: Any, reason: str, thought: str | None) -> None:
    """Tell an answer, be it empty or cut, from none."""
    if message.content is None and (refusal := getattr(message, "refusal", None)):
        raise RowError("refusal", f"the model refuses: {refusal}")
    if reason == "content_filter" and not (message.content or "").strip():
        raise RowError("content_filter", "the server has withheld the answer")
    if message.content is None and thought is None and not message.tool_calls:
        raise RowError("no_content", f"the server sent no text ({reason})")


def _refuse_broken(*texts: str | None) -> None:
    """Tell texts from what only looks like one: JSON can spell half of a surrogate pair.

    Raises:
        RowError: UTF-8 cannot hold it, so no file can.
    """
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError as err:
            detail = f"the answer contains half of a surrogate pair, which is not text: {err}"
            raise RowError("broken_text", detail) from err


def _reasoning_tokens(usage: Any) -> int:
    details = getattr(usage, "completion_tokens_details", None)
    return int(getattr(details, "reasoning_tokens", None) or 0)


def _first_logprobs(choice: Any) -> dict[str, float] | None:
    if choice.logprobs is None or not choice.logprobs.content:
        return None
    # a token may be a part of a character, which a server may spell as half of a surrogate pair
    told = choice.logprobs.content[0].top_logprobs
    return {one.token.encode(errors="replace").decode(): one.logprob for one in told}
