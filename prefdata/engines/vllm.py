"""Text and reward engines over vLLM in this process. Know no row, no file and no other process.

vLLM works wherever its caller lets it: both engines live in a thread of their own, where the
engine is made too, since its CPU build binds the threads of whoever makes it.
"""

import asyncio
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import OutOfMemoryError
from vllm import envs
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.version import __version__ as vllm_version
from vllm.version import __version_tuple__ as vllm_release

from prefdata.engines.cache import cache_folder, once, remember
from prefdata.engines.checkpoints import identify
from prefdata.engines.doctor import PROBES, check_begin, compare
from prefdata.engines.model_thread import Call, ModelThread
from prefdata.engines.protocols import RewardEngine
from prefdata.engines.reasoning import Opening, prefill_of
from prefdata.engines.reward_families import Family, Reading
from prefdata.engines.tool_calls import find_parser, read_calls
from prefdata.engines.transformers.model import (
    ChatTokenizer,
    Checkpoint,
    encode_each,
    load_tokenizer,
)
from prefdata.engines.transformers.reward import load_reward_engine
from prefdata.engines.vllm_arguments import Task, engine_arguments
from prefdata.engines.vllm_reasoning import open_vllm_reader
from prefdata.errors import PrefdataError
from prefdata.fingerprint import digest
from prefdata.inference import Completion, Failure, Logits, ScoreRequest, TextRequest
from prefdata.recipe.contract import Role
from prefdata.recipe.schema import Model
from prefdata.recipe.values import Reasoning

Result = TypeVar("Result")
REFUSALS = (ValueError, VLLMValidationError)
"""What vLLM raises for what it cannot serve; since 0.27 or so the second is no longer the first."""


@dataclass(frozen=True, slots=True)
class _Job(Generic[Result]):
    """One request on its way to the engine thread."""

    index: int
    ids: list[int]
    params: SamplingParams | PoolingParams
    call: Call[Result | Failure]
    opening: Opening = "unsaid"
    request: TextRequest | None = None


class VllmEngine(ModelThread[_Job[Result], Result | Failure]):
    """One model in its thread; what arrives while other requests run joins them at the next step.

    Attributes:
        config: the `VllmConfig` that vLLM has made of the options.
    """

    def __init__(self, work: "_Refill[Result]") -> None:
        """Load, and wait until it is ready."""
        super().__init__("vllm", work, free=work.shutdown)
        self.config: Any = work.ready.result()
        self._max_model_len: int = self.config.model_config.max_model_len


class VllmTextEngine(VllmEngine[Completion]):
    """Completes chats; a Failure is `prompt_too_long` or `chat_template_refused`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: Mapping[str, Any],
        reasoning: Reasoning = "auto",
        *,
        tool_parser: str | None = None,
        seeds_all: bool | None = None,
    ) -> None:
        """Load a checkpoint and wait until it is ready.

        `checkpoint`: folder or Hub id, revision, whether its own code may run. `options`: the
        recipe's `engine:` keys, names and meanings of vLLM's `EngineArgs`. `seeds_all`: whether
        every request is drawn by its seed, and not only those whose seed the recipe sets; None for
        what `draws_by_seed` says.

        Raises:
            PrefdataError: an unknown option, no such checkpoint, no chat template, no room.
        """
        tokenizer = load_tokenizer(checkpoint)
        self._parser = find_parser(tool_parser, tokenizer, prefer_vllm=True)
        self._reader, told = open_vllm_reader(reasoning, checkpoint.model, tokenizer)
        super().__init__(
            _Refill(checkpoint, "text", told | dict(options), self._prepare, self._read)
        )
        self._chats = ChatTokenizer(checkpoint.model, tokenizer, self._max_model_len)
        self._seeds_all = draws_by_seed(options) if seeds_all is None else seeds_all

    def _prepare(
        self, requests: Sequence[TextRequest], call: Call[Completion | Failure]
    ) -> list[_Job[Completion]]:
        jobs: list[_Job[Completion]] = []
        for index, request, ids in encode_each(self._chats, requests, call):
            opening = self._reader.opening(ids, prefill_of(request))
            params = self._params(request, len(ids))
            jobs.append(_Job(index, ids, params, call, opening, request))
        return jobs

    def _params(self, request: TextRequest, prompt_tokens: int) -> SamplingParams:
        sampling = request.sampling
        schema = None
        if request.schema is not None:  # or the model may spend all its tokens on blanks
            schema = StructuredOutputsParams(json=dict(request.schema), disable_any_whitespace=True)
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=min(sampling.max_tokens, self._max_model_len - prompt_tokens),
            stop=list(sampling.stop),
            seed=request.seed if self._seeds_all or request.is_seeded else None,
            structured_outputs=schema,
            logprobs=request.top_logprobs or None,
            thinking_token_budget=sampling.max_reasoning_tokens,
            # one decode at the end costs a third of decoding token by token, which only stop
            # strings need
            detokenize=bool(sampling.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _read(self, job: _Job[Completion], output: Any) -> Completion:
        [made] = output.outputs
        reason = "length" if made.finish_reason == "length" else "stop"
        if made.finish_reason not in ("length", "stop"):
            raise RuntimeError(f"vLLM ended a request with {made.finish_reason!r}")
        ids, stops = list(made.token_ids), tuple[str, ...]()
        if isinstance(made.stop_reason, str):
            stops = (made.stop_reason,)
        elif reason == "stop" and ids:  # the token that ends it
            ids = ids[:-1]
        answer = self._reader.read(ids, opening=job.opening, finish_reason=reason, stops=stops)
        if job.request is not None:
            answer = read_calls(answer, self._parser, job.request, reason)
        told = made.logprobs[answer.reasoning_tokens :] if made.logprobs else []
        first = self._first_logprobs(told[0]) if told else None
        return answer.complete(len(job.ids), len(made.token_ids), first or None)

    def _first_logprobs(self, told: Mapping[int, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for token, logprob in sorted(told.items(), key=lambda item: -item[1].logprob):
            if math.isfinite(logprob.logprob):
                found.setdefault(self._chats.decode([token]), logprob.logprob)
        return found


class VllmRewardEngine(VllmEngine[Logits]):
    """Scores chats with the raw outputs of a classification head; all labels, no activation.

    A Failure is `too_long_to_score` or `chat_template_refused`.

    Attributes:
        last_read: token ids of the last chat that vLLM has scored, as it read them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: Mapping[str, Any],
        *,
        reading: Reading = "labels",
        appends: str | None = None,
    ) -> None:
        """Load a checkpoint and wait until it is ready; errors as for `VllmTextEngine`.

        `checkpoint`: folder or Hub id, revision, whether its own code may run. `options`: the
        recipe's `engine:` keys. `reading`: where the numbers are, `labels` or `last_token`; see
        `reward_families`. `appends`: key of the config with a token that every chat must end with.
        """
        tokenizer = load_tokenizer(checkpoint)
        self._task: Task = "token_classify" if reading == "last_token" else "classify"
        super().__init__(_Refill(checkpoint, self._task, options, self._prepare, self._read))
        self._chats = ChatTokenizer(checkpoint.model, tokenizer, self._max_model_len)
        self.last_read: list[int] = []
        self._ending = (
            [] if appends is None else [int(getattr(self.config.model_config.hf_config, appends))]
        )

    @property
    def bos_token_id(self) -> int | None:
        """The begin token of the model's chats, if it has one."""
        bos: int | None = self._chats.tokenizer.bos_token_id
        return bos

    def _prepare(
        self, requests: Sequence[ScoreRequest], call: Call[Logits | Failure]
    ) -> list[_Job[Logits]]:
        return [
            # the default activation is a sigmoid: above 17.4 it is 1.0 for every chat
            _Job(index, ids, PoolingParams(task=self._task, use_activation=False), call)
            for index, _, ids in encode_each(self._chats, requests, call, self._ending)
        ]

    def _read(self, job: _Job[Logits], output: Any) -> Logits:
        self.last_read = list(output.prompt_token_ids)
        data = output.outputs.data
        last = data[-1] if self._task == "token_classify" else data
        return tuple(last.float().flatten().tolist())


def draws_by_seed(options: Mapping[str, Any]) -> bool:
    """Whether all requests get their seeds: where texts are equal for it, or the recipe wants it.

    On a GPU the logits of a row depend on those beside it, and seeds cost 7 % (8B on an H200).
    """
    is_exact = current_platform.is_cpu() or envs.VLLM_BATCH_INVARIANT
    return bool(is_exact or "seed" in options)


def look_at(role: Role, model: Model, path: str) -> None:
    """Let vLLM look at the model's config and class, and keep what it finds for all processes.

    For a class that is new to it, it imports itself in yet another process.
    """
    task: Task = "text" if role == "text" else "classify"
    arguments = engine_arguments(Checkpoint.of(model, path), task, model.engine)
    with suppress(*REFUSALS, OSError):  # they are told when it is loaded
        EngineArgs(**arguments).create_model_config()


def choose_runner(model: Model, release: tuple[int | str, ...]) -> dict[str, str]:
    """What vLLM's environment lacks to bound the model's thoughts on a GPU, if it is to do so.

    The second model runner of 0.24 to 0.27 refuses such requests; they have the first one too.
    """
    is_bound = model.inference_parameters.max_reasoning_tokens is not None
    return {"VLLM_USE_V2_MODEL_RUNNER": "0"} if is_bound and release[:2] < (0, 28) else {}


def open_text(model: Model, path: str, adapters: tuple[str, ...] = ()) -> VllmTextEngine:
    """A TextEngine with the checkpoint at `path`, and adapters that requests may name."""
    checkpoint = Checkpoint.of(model, path, adapters)
    for name, value in choose_runner(model, vllm_release).items():
        os.environ.setdefault(name, value)
    return VllmTextEngine(checkpoint, model.engine, model.reasoning, tool_parser=model.tool_parser)


def open_reward(model: Model, path: str, family: Family) -> VllmRewardEngine:
    """Load a reward model, and make sure that transformers reads the same from it.

    transformers goes first and is gone when vLLM takes the memory. What it reads is kept: the next
    time it is not loaded at all. `skip_health_check` leaves all of this out.

    Raises:
        PrefdataError: they differ, or as from `VllmRewardEngine`.
    """
    checkpoint = Checkpoint.of(model, path)
    is_examined = not model.skip_health_check and "transformers" in family.providers
    reference = known_reference(model, checkpoint, family) if is_examined else []
    engine = VllmRewardEngine(
        checkpoint, model.engine, reading=family.reading, appends=family.appends
    )
    if is_examined:
        mine = asyncio.run(_scores(engine))
        check_begin(model.alias, engine.last_read, engine.bos_token_id)
        compare(
            model.alias,
            mine,
            reference,
            str(engine.config.model_config.dtype).removeprefix("torch."),
        )
    return engine


def known_reference(model: Model, checkpoint: Checkpoint, family: Family) -> list[Logits]:
    """What transformers makes of the probes; kept by checkpoint, dtype, device and versions."""
    options = {k: v for k, v in model.engine.items() if k in ("dtype", "max_model_len")}
    weights = identify(model, checkpoint.model)
    name = digest(
        weights, options, asdict(family), model.chat_template, model.trust_remote_code,
        [asdict(probe) for probe in PROBES], version("transformers"), version("torch"),
        current_platform.device_type,
    )  # fmt: skip
    place = cache_folder() / "reward-checks" / f"{name}.json"
    kept = remember(place, lambda: json.dumps(_reference(model, checkpoint, family)))
    return [tuple(logits) for logits in json.loads(kept)]


def _reference(model: Model, checkpoint: Checkpoint, family: Family) -> list[Logits]:
    options = {k: v for k, v in model.engine.items() if k in ("dtype", "max_model_len")}
    engine = load_reward_engine(checkpoint, options, family.reading)
    try:
        return asyncio.run(_scores(engine))
    finally:
        engine.close()


async def _scores(engine: RewardEngine) -> list[Logits]:
    found: dict[int, Logits] = {}
    async for index, logits in engine.ask(PROBES):
        if isinstance(logits, Failure):
            raise PrefdataError(
                f"the reward model cannot score a chat of one line: {logits.detail}; fix its "
                "chat template or its 'engine' options, or set skip_health_check"
            )
        found[index] = logits
    return [found[index] for index in range(len(PROBES))]


def _adapter_of(job: _Job[Any]) -> str | None:
    return None if job.request is None else job.request.adapter


class _Refill(Generic[Result]):
    """Adds requests as they come and steps the engine while any is unfinished."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        task: Task,
        options: Mapping[str, Any],
        prepare: Callable[[Sequence[Any], Call[Result | Failure]], list[_Job[Result]]],
        read: Callable[[_Job[Result], Any], Result],
    ) -> None:
        self.ready: Future[Any] = Future()
        self._checkpoint, self._task, self._options, self._read = checkpoint, task, options, read
        self.prepare, self.capacity = prepare, 0
        self._numbers = count()
        self._jobs: dict[str, _Job[Result]] = {}
        self._waiting: list[_Job[Result]] = []
        self._adapters = {
            folder: LoRARequest(f"adapter_{number}", number, folder)
            for number, folder in enumerate(checkpoint.adapters, start=1)
        }

    def start(self) -> None:
        """Load, and tell whoever waits for it how that went."""
        try:
            self.engine = self._load()
            config = self.engine.vllm_config
            self._load_adapters(config)
        except BaseException as err:
            self.ready.set_exception(err)
            raise
        self.capacity = config.scheduler_config.max_num_seqs
        self.ready.set_result(config)

    def step(self, arrivals: Sequence[_Job[Result]]) -> bool:
        """One engine step; every request that it finishes is delivered."""
        self._waiting.extend(arrivals)
        for job in self._take():
            self._add(job)
        if not self._jobs:
            return bool(self._waiting)
        for output in self.engine.step():
            if output.finished:
                job = self._jobs.pop(output.request_id)
                job.call.deliver(job.index, self._read(job, output))
        return bool(self._jobs or self._waiting)

    def _take(self) -> list[_Job[Result]]:
        """Those that wait; where adapters may not be mixed, those of one adapter at a time."""
        if not (self._adapters and current_platform.is_cpu()):
            taken, self._waiting = self._waiting, []
            return taken
        # the CPU build runs a whole prefill with the adapter of one of its requests
        running = next(iter(self._jobs.values()), None) or next(iter(self._waiting), None)
        if running is None:
            return []
        wanted = _adapter_of(running)
        taken = [job for job in self._waiting if _adapter_of(job) == wanted]
        self._waiting = [job for job in self._waiting if _adapter_of(job) != wanted]
        return taken

    def shutdown(self) -> None:
        """Free the model; nothing may be stepped any more."""
        self.engine.engine_core.shutdown()
        del self.engine

    def _add(self, job: _Job[Result]) -> None:
        number = str(next(self._numbers))
        try:
            self.engine.add_request(
                number,
                {"prompt_token_ids": job.ids},
                job.params,
                lora_request=self._adapter(job),
            )
        except REFUSALS as err:
            message = f"model {self._checkpoint.model!r}: vLLM refused a request: {err}"
            job.call.fail(PrefdataError(message))
            return
        self._jobs[number] = job

    def _adapter(self, job: _Job[Result]) -> LoRARequest | None:
        folder = _adapter_of(job)
        return None if folder is None else self._adapters[folder]

    def _load_adapters(self, config: Any) -> None:
        for adapter in self._adapters.values():
            try:
                length = config.model_config.max_model_len
                helper = PEFTHelper.from_local_dir(adapter.path, length)
                helper.validate_legal(config.lora_config)
                self.engine.add_lora(adapter)
            except (OSError, TypeError, RuntimeError, *REFUSALS) as err:
                raise PrefdataError(
                    f"vLLM cannot run the adapter {adapter.path!r} on {self._checkpoint.model!r}: "
                    f"{err}; set provider: transformers, or merge it into its base and name the "
                    "merged folder as 'model'"
                ) from err

    def _load(self) -> LLMEngine:
        arguments = engine_arguments(self._checkpoint, self._task, self._options)
        compiles = not (arguments.get("enforce_eager") or current_platform.is_cpu())
        try:
            with self._compile_once(arguments) if compiles else nullcontext():
                # as vllm.LLM starts it: another context gets an eighth of the sequences and tokens
                return LLMEngine.from_engine_args(
                    EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS
                )
        except (OSError, OutOfMemoryError, *REFUSALS) as err:
            raise PrefdataError(
                f"model {self._checkpoint.model!r} could not be loaded by vLLM: {err}; fix "
                "its 'engine' options (max_model_len, gpu_memory_utilization, dtype), or "
                "set provider: transformers"
            ) from err

    def _compile_once(self, arguments: Mapping[str, Any]) -> AbstractContextManager[None]:
        """The tasks of an array and the replicas of a run find compiled what the first compiles."""
        device = current_platform.get_device_name()
        name = digest(vllm_version, device, {**arguments, "seed": None})
        return once(Path(envs.VLLM_CACHE_ROOT) / "prefdata", name)
