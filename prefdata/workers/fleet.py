"""The engines of a run: what each alias stands for, loaded when first asked, closed at the end.

Every engine is behind the journal. Knows neither rows nor stages.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, cached_property
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any, Self

from prefdata.engines import Connection, Engine, choose_engine, connect, open_engine
from prefdata.engines.adapters import check_peft, find_adapter, identify_adapter
from prefdata.engines.checkpoints import check_text_model, identify
from prefdata.engines.options import check_options
from prefdata.engines.scripted import Scripted
from prefdata.engines.template_file import read_template, roles_of_model
from prefdata.errors import PrefdataError, Say
from prefdata.fingerprint import ScoreKeys, TextKeys, digest, model_identity
from prefdata.inference import Failure, Message, Sampling, ScoreRequest, TextRequest
from prefdata.recipe.chats import Roles as ChatRoles
from prefdata.recipe.contract import Role
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.plan import Checkpoint, Pass, roles_of
from prefdata.recipe.providers import ENGINES
from prefdata.recipe.schema import Endpoint, Model
from prefdata.storage.journal import Journal
from prefdata.storage.journaled import Journaled, Load, Opened, Work
from prefdata.workers.devices import Devices
from prefdata.workers.gauges import Now
from prefdata.workers.machine import Machine
from prefdata.workers.messages import Order
from prefdata.workers.pool import Workers

Asked = tuple[str, Role]
"""An alias, and what it is asked for."""
Engines = Mapping[Asked, Journaled]
EAGER_TOKENS = 2**17
"""Tokens a replica below which vLLM starts without compiling: 256 answers of 512 tokens."""
LIBRARIES = ("torch", "transformers", "vllm")


class Fleet:
    """Engines by checkpoint, shared by the aliases and the passes that use them.

    Attributes:
        checkpoints: content hash or commit of every alias's checkpoint.
        work: what was asked of the engines so far.
    """

    def __init__(
        self,
        loaded: LoadedRecipe,
        out: Path,
        *,
        machine: Machine | None,
        rehearse: bool,
        say: Say,
    ) -> None:
        """Identify and check every checkpoint; load none.

        `out`: the run folder; its journal is read when the first engine is wanted. `machine`: what
        the models may use; None where none will be asked, so that it does not matter whether they
        could run here. `rehearse`: use the scripted engines in the place of all models.

        Raises:
            PrefdataError: a checkpoint is missing, or cannot do what the recipe wants of it.
        """
        self._loaded, self._rehearse, self._say = loaded, rehearse, say
        self._out, self._machine, self._is_idle = out, machine or Machine(), machine is None
        self._journal: Journal | None = None
        self._engines: dict[tuple[str, str | None], Journaled] = {}
        self._bases: dict[str, Opened] = {}
        self._devices = Devices()
        self._expected: dict[str, float] = {}
        self._started: list[Workers] = []
        self._pools: dict[str, Workers] = {}
        self._prepared: dict[str, tuple[Workers, Load]] = {}
        self._known: dict[str, Checkpoint] = {}
        self.work = Work()
        self._roles = roles_of(loaded.recipe)
        self._connections: dict[str, Connection] = {}
        self._adapters: dict[str, str] = {}
        self.checkpoints = {m.alias: self._identify(m) for m in loaded.recipe.models}

    @property
    def is_rehearsal(self) -> bool:
        """Whether the scripted engines stand in for all models."""
        return self._rehearse

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            for engine in self._engines.values():
                engine.close()
            for workers, _ in self._prepared.values():
                workers.close()
            for connection in self._connections.values():
                connection.close()
        finally:
            if self._journal is not None:
                self._journal.close()

    @cached_property
    def template_roles(self) -> dict[str, ChatRoles]:
        """Leading roles that the chat template of every alias in use knows, found by rendering."""
        found = {}
        for alias, role in self._roles.items():
            model = self._loaded.recipe.model(alias)
            is_here = self._loaded.recipe.endpoint(model) is None and not self._rehearse
            path = self._loaded.locate(model.model)
            template = read_template(model, path, fetch=True) if is_here else None
            found[alias] = roles_of_model(model, template, is_finished=role == "reward")
        return found

    @property
    def gpus(self) -> int:
        """GPUs that the models may use."""
        return len(self._machine.gpus)

    def replicas(self) -> list[Now]:
        """What each replica does at this moment, or has done."""
        return [now for workers in [*self._started] for now in workers.replicas]

    def model_groups(self, step: Pass) -> list[frozenset[str]]:
        """Keys of the checkpoints that are loaded together in a pass, one set after another.

        Mostly one set with all. On GPUs models stay apart, unless the recipe gives each its share
        of the memory: then a pass that asks several goes over the rows once for each.
        """
        keys = list(step.checkpoints)
        if self._fit([step.checkpoints[key] for key in keys]):
            return [frozenset(keys)]
        return [frozenset([key]) for key in keys]

    def engines_of(self, step: Pass, group: frozenset[str]) -> Engines:
        """Engines of a pass; only those of the group may load.

        What earlier passes and groups have loaded and what has no room beside this is freed.
        """
        if self._journal is not None and len(group) < len(step.checkpoints):
            self._journal.refresh()  # the others' answers were given in this run
        found = self._find_engines(step)
        together = [self._known[key] for key in group]
        for (key, _), engine in self._engines.items():
            engine.may_load = key in group
            if key not in group and not self._fit([*together, self._known[key]]):
                engine.close()
                self._pools.pop(key, None)
        self.refresh_journal()
        return {asked: engine for asked, (_, engine) in found.items()}

    def _find_engines(self, step: Pass) -> dict[Asked, tuple[str, Journaled]]:
        """Key and engine of every alias and role of a pass; new ones are made, not loaded."""
        found = {}
        for model in self._loaded.recipe.models:
            for key, checkpoint in step.checkpoints.items():
                own = Checkpoint(checkpoint.role, model)
                if own.key != key:
                    continue
                self._known.setdefault(key, checkpoint)
                name = key, model.adapter
                if name not in self._engines:
                    self._engines[name] = self._make(own)
                found[model.alias, own.role] = key, self._engines[name]
        return found

    def expect(self, tokens: Mapping[str, float]) -> None:
        """Tokens that each checkpoint, by its key, is going to write at most in this run."""
        self._expected = dict(tokens)

    def prepare(self, group: frozenset[str], checkpoints: Mapping[str, Checkpoint]) -> bool:
        """Start the workers of models whose turn is next; they load once their places are free.

        Returns:
            Whether there are such workers, so that it makes sense to go ahead with their rows.
        """
        for key in group:
            checkpoint, model = checkpoints[key], checkpoints[key].model
            if self._is_embedded(checkpoint.role, model):
                continue
            if key not in self._prepared and key not in self._pools:
                self._prepared[key] = self._start_workers(checkpoint.role, model)
        return any(key in self._prepared for key in group)

    def go_ahead(
        self, done: Pass, group: frozenset[str], after: Pass, next_group: frozenset[str]
    ) -> tuple[Engines, Engines]:
        """Engines for rows that have all answers of one group and go on to the next one's models.

        They are for another thread: the first only tell what the journal has. From now on a
        replica of the group that has nothing left to do makes room.

        Returns:
            Those of the pass that ends, and those of the pass after it, which may be the same.
        """
        first, second = self._find_engines(done), self._find_engines(after)
        for key, engine in second.values():
            engine.outcomes.is_shared |= key in next_group
        for key in group - next_group:
            if key in self._pools and not self._fit(
                [self._known[key], *(self._known[k] for k in next_group)]
            ):
                self._pools[key].dismiss_idle()
        of_first, of_second = (
            {a: e.beside(may_load=key in next_group) for a, (key, e) in found.items()}
            for found in (first, second)
        )
        return of_first, of_second

    def has_loaded(self, group: frozenset[str]) -> bool:
        """Whether workers of all these models that have been prepared are ready for rows."""
        pools = [self._prepared[key][0] for key in group if key in self._prepared]
        pools += [self._pools[key] for key in group if key in self._pools]
        return bool(pools) and all(workers.capacity for workers in pools)

    def is_open(self, group: frozenset[str]) -> bool:
        """Whether workers of one of these models have been wanted, so that rows are being made."""
        return any(key in self._pools for key in group)

    def look_up_alone(self) -> None:
        """Let engines tell what the journal has, and ask no model."""
        for engine in self._engines.values():
            engine.may_load, engine.outcomes.is_closed = False, True

    @property
    def journal(self) -> Journal:
        """Of the run, read when it is first wanted."""
        if self._journal is None:
            self._journal = Journal(self._out / "journal")
            for damage in self._journal.damage:
                self._say(str(damage))
        return self._journal

    def refresh_journal(self, *, is_over: bool = False) -> None:
        """Let what went ahead be found in the journal; `is_over`: nothing goes ahead any more."""
        shared = [e.outcomes for e in self._engines.values() if e.outcomes.is_shared]
        if not shared:
            return
        answered = [outcomes.answered() for outcomes in shared]
        self.journal.refresh()
        for outcomes, keys in zip(shared, answered, strict=True):
            outcomes.is_shared &= not is_over
            outcomes.forget(keys)

    def check_health(self) -> None:
        """Ask every alias on a server for one short answer, unless its recipe says not to.

        Raises:
            PrefdataError: a server, a key, a model or a sampling parameter is refused.
        """
        if self._rehearse:
            return
        for model in self._loaded.recipe.models:
            endpoint = self._loaded.recipe.endpoint(model)
            if endpoint is not None and model.alias in self._roles and not model.skip_health_check:
                role = self._roles[model.alias]
                asyncio.run(
                    _check_server(self._connection(endpoint).open(model, role), model, role)
                )

    def _connection(self, endpoint: Endpoint) -> Connection:
        """The one way to a server, which all its models share with its limit of requests."""
        if endpoint.name not in self._connections:
            self._connections[endpoint.name] = connect(endpoint)
        return self._connections[endpoint.name]

    def _fit(self, checkpoints: list[Checkpoint]) -> bool:
        """Whether these may be in memory at the same time."""
        large = [c for c in checkpoints if not self._is_embedded(c.role, c.model)]
        shares = [c.model.engine.get("gpu_memory_utilization") for c in large]
        told = [share for share in shares if isinstance(share, int | float)]
        return len(large) < 2 or (len(told) == len(large) and sum(told) <= 1)

    def _is_embedded(self, role: Role, model: Model) -> bool:
        """Whether the model takes no memory of its own place: a small one, or one on a server."""
        if self._rehearse or self._loaded.recipe.endpoint(model) is not None:
            return True
        is_alone = not self._machine.gpus and self._machine.replicas == 1
        return is_alone and ENGINES[self._engine(role, model)].is_embeddable

    def _engine(self, role: Role, model: Model) -> str:
        path = self._loaded.locate(model.model)
        return choose_engine(role, model, path, on_gpu=bool(self._machine.gpus))

    def _identify(self, model: Model) -> str:
        if self._rehearse:
            return "scripted"
        endpoint = self._loaded.recipe.endpoint(model)
        if endpoint is not None:
            parameters = [endpoint.parameters] if endpoint.parameters else []
            asked = digest(endpoint.extra_body, endpoint.structured_outputs, *parameters, size=4)
            return f"{endpoint.name}/{model.model} {asked}"
        path = self._loaded.locate(model.model)
        if model.alias in self._roles and not self._is_idle:
            role = self._roles[model.alias]
            check_options(model, role, (self._engine(role, model),))
            self._machine.places(model)
            if role == "text" and not model.skip_health_check:
                check_text_model(model, path)
            if model.adapter is not None and self._engine(role, model) == "transformers":
                check_peft(model)
        identity = identify(model, path)
        if model.adapter is None:
            return identity
        self._adapters[model.alias] = find_adapter(model, self._loaded.locate(model.adapter))
        return digest(identity, identify_adapter(self._adapters[model.alias]))

    def _make(self, checkpoint: Checkpoint) -> Journaled:
        role, model = checkpoint.role, checkpoint.model
        identity = model_identity(model, self.checkpoints[model.alias])
        keys = TextKeys(identity) if role == "text" else ScoreKeys(identity)
        base = self._bases.setdefault(checkpoint.key, Opened(lambda: self._open(role, model)))
        adapter = self._adapters.get(model.alias) if role == "text" else None
        way = digest(model.engine, _versions())
        return Journaled(base, keys, self.journal, self.work, way=way, adapter=adapter)

    def _open(self, role: Role, model: Model) -> Engine[Any, Any]:
        """The engine of a role: a server's, that of workers, or one in this process."""
        endpoint = self._loaded.recipe.endpoint(model)
        if endpoint is not None and not self._rehearse:
            return self._connection(endpoint).open(model, role)
        if not self._is_embedded(role, model):
            return self._workers(role, model)
        self.work.loads.append(load := self._load(model))
        opened: Engine[Any, Any] = Scripted()
        if not self._rehearse:
            order = self._order(role, model)
            opened = open_engine(role, order.model, order.path, order.engine, order.adapters)
        load.finish()
        return opened

    def _load(self, model: Model) -> Load:
        """That a model begins to load, for whoever waits for it."""
        gpus, replicas = self.gpus, self._machine.replicas
        where = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else "the CPU"
        if not gpus and replicas > 1:
            where = f"{replicas} CPU replicas"
        return Load(model.model, f"{model.alias} on {where}")

    def _workers(self, role: Role, model: Model) -> Workers:
        """Workers of a model, prepared before or started now."""
        key = Checkpoint(role, model).key
        if key not in self._prepared:
            self._prepared[key] = self._start_workers(role, model)
        workers, load = self._prepared.pop(key)
        if load.end is None:  # for whoever waits it begins now
            load.start = monotonic()
        self.work.loads.append(load)
        self._pools[key] = workers
        return workers

    def _start_workers(self, role: Role, model: Model) -> tuple[Workers, Load]:
        load = self._load(model)
        order, places = self._order(role, model), self._machine.places(model)
        tokens = self._expected.get(Checkpoint(role, model).key, math.inf) / len(places)
        if self.gpus and order.engine == "vllm":
            options = launch_options(order.model.engine, tokens)
            order = replace(order, model=order.model.model_copy(update={"engine": options}))
        share = model.engine.get("gpu_memory_utilization")
        workers = Workers(
            order,
            places,
            self._out / "logs",
            self._say,
            program=self._machine.worker,
            ready=load.finish,
            devices=self._devices,
            share=min(1.0, share) if isinstance(share, int | float) else 1.0,
        )
        self._started.append(workers)
        return workers, load

    def _order(self, role: Role, model: Model) -> Order:
        """What is to be loaded: adapters by their folders on this machine.

        A text model is loaded with the adapters of all aliases that share it, and with a bound on
        thoughts if any of them has one.
        """
        path, engine = self._loaded.locate(model.model), self._engine(role, model)
        key, adapters = Checkpoint(role, model).key, self._adapters
        sharing = [m for m in self._loaded.recipe.models if Checkpoint(role, m).key == key]
        folders = dict.fromkeys(adapters[m.alias] for m in sharing if m.alias in adapters)
        asked = [m.inference_parameters for m in sharing]
        bound = next((one for one in asked if one.max_reasoning_tokens), asked[0])
        told = {"adapter": adapters.get(model.alias), "inference_parameters": bound}
        own = model.model_copy(update=told)
        return Order(role, own, path, engine, adapters=tuple(folders) if role == "text" else ())


async def _check_server(engine: Engine[Any, Any], model: Model, role: Role) -> None:
    """Ask for one short answer, or one score, with this alias's parameters.

    Raises:
        PrefdataError: the server, the key, the model or a parameter is refused.
    """
    hello: Message = {"role": "user", "content": "Hello!"}
    request: TextRequest | ScoreRequest = ScoreRequest(
        (hello, {"role": "assistant", "content": "Hi."})
    )
    if role == "text":
        given = model.inference_parameters.model_dump(exclude={"seed"})
        sampling = Sampling(**given | {"max_tokens": min(given["max_tokens"], 16)})
        request = TextRequest((hello,), sampling, 0, None, model.chat_template_kwargs)
    async for _, outcome in engine.ask([request]):
        if isinstance(outcome, Failure) and outcome.reason == "refused_by_endpoint":
            # all rows would share this one's fate
            raise PrefdataError(f"model {model.alias!r}: {outcome.detail}")


def launch_options(options: Mapping[str, Any], tokens: float) -> dict[str, Any]:
    """What vLLM is started with to write so many tokens: without compiling where they are few."""
    eager = {"enforce_eager": True} if tokens < EAGER_TOKENS else {}
    return eager | dict(options)


@cache
def _versions() -> list[str]:
    """What the engines run on: another version may live where one has died."""
    packages = packages_distributions()  # vLLM's CPU build has a name of its own
    there = [name for name in LIBRARIES if find_spec(name)]
    return [f"{name} {version(packages[name][0])}" for name in there]
