"""Real vLLM, the same requests four ways: one call, prefdata, batches of 50 and of 256.

Run it with the Python that has vLLM: `.venv-vllm/bin/python scripts/bench_engine.py`. The modes
take turns, so that they share whatever else the machine does; engine steps do not depend on it.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS = Path(__file__).parent.parent / "recipes" / "quickstart" / "models"
SLOTS, MEDIAN, SIGMA, LONGEST = 64, 60, 0.8, 400
SUBTOPICS = ["the sea", "the garden", "school", "toys", "fruit", "clothes"]


@dataclass(frozen=True)
class Load:
    """What every mode is given: prompts, and how many tokens each is answered with."""

    prompts: list[str]
    lengths: list[int]


def make_load(n: int, turn: int) -> Load:
    """Prompts of about 25 to 120 tokens; lognormal lengths (median 60, p99 near 330).

    Turns begin their prompts differently, so that none finds its prefills done.
    """
    rng = random.Random(0)
    words = ["write", "a", "long", "list", "of", "questions", "about", "numbers", "for", "pupils"]
    prompts = [
        f"{turn}, {k}. "
        + " ".join(rng.choices(words, k=rng.randint(15, 90)))
        + " "
        + rng.choice(SUBTOPICS)
        for k in range(n)
    ]
    drawn = (int(rng.lognormvariate(0, SIGMA) * MEDIAN) for _ in range(n))
    return Load(prompts, [max(1, min(LONGEST, length)) for length in drawn])


def main() -> None:
    """Start one process a mode, let them take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", choices=TABLES, help="only this one")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(MODES[args.serve], args)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = endless_copy(Path(folder))
        for table in [args.table] if args.table else TABLES:
            names, unit = TABLES[table]
            print(f"\n{table}")
            show(names, measure(names, args, model), unit)


def measure(names: Sequence[str], args: Any, model: Path) -> dict[str, list[dict[str, float]]]:
    """Results of every round, by mode; the modes run one after another, never together."""
    servers = {name: start(name, args, model) for name in names}
    for name, server in servers.items():
        answer(name, server)  # all are warm before the first round
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name, server in servers.items():
            assert server.stdin
            server.stdin.write("go\n")
            server.stdin.flush()
            found[name].append(answer(name, server))
    for server in servers.values():
        server.communicate("")
    return found


def answer(name: str, server: "subprocess.Popen[str]") -> dict[str, float]:
    """The next result; vLLM's own lines are passed over."""
    assert server.stdout
    while not (line := server.stdout.readline()).startswith("{"):
        if not line:
            raise SystemExit(f"{name} ended with {server.wait()}")
    found: dict[str, float] = json.loads(line)
    return found


def start(name: str, args: Any, model: Path) -> "subprocess.Popen[str]":
    """A process that waits for its turns, on one core; two for two replicas."""
    os_args = ["--serve", name, "--prompts", str(args.prompts), "--model", str(model)]
    cores = "0,1" if "replica" in name else "0"
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "0",
        "TOKENIZERS_PARALLELISM": "false", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    return subprocess.Popen(
        ["taskset", "-c", cores, sys.executable, __file__, *os_args],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def show(names: Sequence[str], found: dict[str, list[dict[str, float]]], unit: str) -> None:
    """One line a mode; ratios are medians of the rounds' own ratios to the first mode."""
    print(f"{'':<44} {'steps':>7} {unit + '/s':>9} {'ratio':>6} {'MiB':>6}  rounds")
    for name in names:
        speeds = [result["done"] / result["seconds"] for result in found[name]]
        firsts = [result["done"] / result["seconds"] for result in found[names[0]]]
        ratios = [mine / first for mine, first in zip(speeds, firsts, strict=True)]
        steps = found[name][-1].get("steps")
        rounds = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{name:<44} {steps or '':>7} {statistics.median(speeds):>9,.0f} "
            f"{statistics.median(ratios):>6.2f} {found[name][-1]['memory']:>6,.0f}  {rounds}"
        )


def serve(mode: Callable[[Any], Iterator[dict[str, float]]], args: Any) -> None:
    """Print the result of a warm-up, then one for each line that comes in."""
    results = mode(args)
    print(json.dumps(next(results)), flush=True)
    for _ in sys.stdin:
        print(json.dumps(next(results)), flush=True)


def endless_copy(folder: Path) -> Path:
    """The quickstart's language model with an end token that it never says."""
    copy = folder / "lm"
    shutil.copytree(MODELS / "lm", copy)
    for name, key, value in (
        ("config.json", "eos_token_id", 0),
        ("generation_config.json", "eos_token_id", 0),
        ("tokenizer_config.json", "eos_token", "<|pad|>"),
    ):
        file = copy / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    return copy


# ---- generation -------------------------------------------------------------------------------


def one_call(args: Any) -> Iterator[dict[str, float]]:
    """(a) everything in one `LLM.generate`."""
    yield from calls(args, args.prompts)


def batches_of_256(args: Any) -> Iterator[dict[str, float]]:
    """(c) one `LLM.generate` after another."""
    yield from calls(args, 256)


def batches_of_50(args: Any) -> Iterator[dict[str, float]]:
    """(c) as distilabel's default batch size does it."""
    yield from calls(args, 50)


def calls(args: Any, size: int) -> Iterator[dict[str, float]]:
    from vllm import LLM, SamplingParams

    llm = LLM(args.model, **vllm_options(), disable_log_stats=True, enable_prefix_caching=True)
    tokenizer, steps = llm.get_tokenizer(), counting_steps(llm)

    def run(turn: int) -> dict[str, float]:
        load = make_load(args.prompts, turn)
        chats = [[{"role": "user", "content": prompt}] for prompt in load.prompts]
        before, began, done = steps(), time.perf_counter(), 0
        for start in range(0, len(chats), size):
            ids = tokenizer.apply_chat_template(
                chats[start : start + size], add_generation_prompt=True, return_dict=False
            )
            params = [
                SamplingParams(temperature=0.9, max_tokens=length, ignore_eos=True, seed=n)
                for n, length in enumerate(load.lengths[start : start + size], start)
            ]
            prompts = [{"prompt_token_ids": one} for one in ids]
            for output in llm.generate(prompts, params, use_tqdm=False):
                done += len(output.outputs[0].token_ids)
        return result(began, done, steps() - before)

    yield from turns(run)


def vllm_options() -> dict[str, Any]:
    return {
        "max_num_seqs": SLOTS, "dtype": "float32", "enforce_eager": True, "max_model_len": 1024,
        "enable_chunked_prefill": False, "max_num_batched_tokens": 4096,
    }  # fmt: skip


def counting_steps(llm: Any) -> Callable[[], int]:
    engine, count = llm.llm_engine, [0]
    step = engine.step

    def counted() -> Any:
        count[0] += 1
        return step()

    engine.step = counted
    return lambda: count[0]


def prefdata_stage(args: Any) -> Iterator[dict[str, float]]:
    """(b) a row function over the engine, mapped, behind the journal; all in one process."""
    from prefdata.engines.transformers.model import Checkpoint
    from prefdata.engines.vllm import VllmTextEngine

    engine = VllmTextEngine(Checkpoint(args.model, None, False), vllm_options())
    yield from staged(args, engine, lambda: engine.steps)


def prefdata_one_replica(args: Any) -> Iterator[dict[str, float]]:
    """As `prefdata build` does it: the engine in a worker of its own, here on one core."""
    yield from replicated(args, [(0,)])


def prefdata_two_replicas(args: Any) -> Iterator[dict[str, float]]:
    """Two workers, one a core."""
    yield from replicated(args, [(0,), (1,)])


def replicated(args: Any, cores: list[tuple[int, ...]]) -> Iterator[dict[str, float]]:
    from prefdata.recipe.schema import Model
    from prefdata.workers.machine import Place
    from prefdata.workers.messages import Order
    from prefdata.workers.pool import Workers

    model = Model(alias="lm", model=args.model, engine=vllm_options())
    with tempfile.TemporaryDirectory() as logs:
        places = [Place(cores=part) for part in cores]
        engine = Workers(Order("text", model, args.model, "vllm"), places, Path(logs), print)
        while engine.capacity < SLOTS * len(cores):
            time.sleep(0.1)
        yield from staged(args, engine, None)
        engine.close()


def staged(args: Any, engine: Any, steps: Callable[[], int] | None) -> Iterator[dict[str, float]]:
    from datasets import Dataset

    from prefdata.fingerprint import TextKeys
    from prefdata.inference import Sampling, TextRequest
    from prefdata.storage.journal import Journal
    from prefdata.storage.journaled import Journaled, Opened, Work

    work = Work()

    def run(turn: int) -> dict[str, float]:
        load = make_load(args.prompts, turn)
        rows = Dataset.from_dict(
            {"prompt": load.prompts, "length": load.lengths, "n": list(range(args.prompts))}
        )
        before = steps() if steps else 0
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
            journaled = Journaled(Opened(lambda: engine), TextKeys("lm"), journal, work)

            async def stage(row: dict[str, Any]) -> dict[str, Any]:
                sampling = Sampling(temperature=0.9, max_tokens=row["length"])
                chat = ({"role": "user", "content": row["prompt"]},)
                async for _, completion in journaled.ask([TextRequest(chat, sampling, row["n"])]):
                    return {"tokens": completion.completion_tokens, "text": completion.text}
                raise AssertionError("an engine answers every request")

            began = time.perf_counter()
            done = sum(row["tokens"] for row in rows.to_iterable_dataset().map(stage))
            pids = [*getattr(engine, "pids", []), "self"]
            return result(began, done, steps() - before if steps else 0, pids)

    yield from turns(run)


# ---- scoring ----------------------------------------------------------------------------------


def chats_to_score(n: int, turn: int) -> list[tuple[str, str]]:
    """Chats of 137 tokens on average."""
    rng = random.Random(1)
    words = ["what", "is", "the", "sum", "of", "two", "numbers", "that", "a", "pupil", "has"]
    return [
        (
            f"{turn}, {k}. " + " ".join(rng.choices(words, k=rng.randint(20, 180))),
            f"The answer is {rng.randint(0, 99)}.",
        )
        for k in range(n)
    ]


def score_by_vllm(args: Any) -> Iterator[dict[str, float]]:
    """VLLM's pooling, raw logits, through prefdata's engine."""
    from prefdata.engines.transformers.model import Checkpoint
    from prefdata.engines.vllm import VllmRewardEngine

    options = vllm_options() | {"max_num_seqs": 256}
    yield from scored(args, VllmRewardEngine(Checkpoint(str(MODELS / "rm"), None, False), options))


def score_by_transformers(args: Any) -> Iterator[dict[str, float]]:
    """transformers, batches of similar lengths, through prefdata's engine."""
    from prefdata.engines.transformers.model import Checkpoint
    from prefdata.engines.transformers.reward import load_reward_engine

    checkpoint = Checkpoint(str(MODELS / "rm"), None, False)
    yield from scored(args, load_reward_engine(checkpoint, {}))


def score_by_vllm_itself(args: Any) -> Iterator[dict[str, float]]:
    """One `LLM.encode` over everything."""
    from vllm import LLM, PoolingParams

    options = vllm_options() | {"max_num_seqs": 256}
    llm = LLM(str(MODELS / "rm"), runner="pooling", **options, enable_prefix_caching=True)
    tokenizer = llm.get_tokenizer()
    params = PoolingParams(use_activation=False)

    def run(turn: int) -> dict[str, float]:
        began = time.perf_counter()
        chats = [
            [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
            for q, a in chats_to_score(args.prompts, turn)
        ]
        ids = tokenizer.apply_chat_template(chats, return_dict=False)
        prompts = [{"prompt_token_ids": one} for one in ids]
        done = len(llm.encode(prompts, params, pooling_task="classify", use_tqdm=False))
        return result(began, done, 0)

    yield from turns(run)


def scored(args: Any, engine: Any) -> Iterator[dict[str, float]]:
    from prefdata.inference import ScoreRequest

    async def one(question: str, answer: str) -> int:
        chat = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        return len([logits async for _, logits in engine.ask([ScoreRequest(chat)])])

    async def every(turn: int) -> int:
        chats = chats_to_score(args.prompts, turn)
        return sum(await asyncio.gather(*(one(*chat) for chat in chats)))

    def run(turn: int) -> dict[str, float]:
        began = time.perf_counter()
        return result(began, asyncio.run(every(turn)), 0)

    yield from turns(run)


# ---- turns ------------------------------------------------------------------------------------


def turns(run: Callable[[int], dict[str, float]]) -> Iterator[dict[str, float]]:
    """A warm-up, then a result whenever one is wanted."""
    yield from map(run, itertools.count())


def result(
    began: float, done: int, steps: int, pids: Sequence[int | str] = ("self",)
) -> dict[str, float]:
    """Of one turn; memory is the peak of the run and its workers together, in MiB."""
    seconds, memory = time.perf_counter() - began, 0.0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        memory += int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
    return {"seconds": seconds, "done": done, "steps": steps, "memory": memory}


MODES = {
    "(a) one LLM.generate": one_call,
    "(b) prefdata's stage": prefdata_stage,
    "(c) LLM.generate in batches of 256": batches_of_256,
    "(c) LLM.generate in batches of 50": batches_of_50,
    "prefdata, one replica on one core": prefdata_one_replica,
    "prefdata, two replicas on two cores": prefdata_two_replicas,
    "vLLM itself, one call": score_by_vllm_itself,
    "prefdata, provider: vllm": score_by_vllm,
    "prefdata, provider: transformers": score_by_transformers,
}
NAMES = tuple(MODES)
TABLES = {
    "generation": (NAMES[:4], "tokens"),
    "replicas": (NAMES[4:6], "tokens"),
    "scoring": (NAMES[6:], "chats"),
}

if __name__ == "__main__":
    main()
