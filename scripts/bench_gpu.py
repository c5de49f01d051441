"""prefdata against one call of vLLM's own class, on this machine's GPU, in one run.

    python scripts/bench_gpu.py --quick  # 1,024 prompts in bf16, within 6 minutes on an H200
    python scripts/bench_gpu.py          # all parts with 4,096 prompts
    python scripts/bench_gpu.py --quick --only quickstart seeds fp8
    .venv-vllm/bin/python scripts/bench_gpu.py --cpu  # tiny shapes on vLLM's CPU build

Nothing is downloaded: a model folder of Llama-3.1-8B's shape and its tokenizer are made here, the
weights are random. Each step is a process of its own. Ratios are to `LLM.generate` without seeds,
and to `LLM.encode`. Seconds begin when the model is loaded (`ready`, after the start of the step)
and end with the last result, for prefdata as for vLLM. The part `seeds` asks one engine for the
same texts with and without a seed a request, in turn, under both model runners of vLLM.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

BEGIN = time.time()
VOCABULARY, BOS, EOS = 128_256, 128_000, 128_009
LENGTHS = ((0.9, 64), (0.7, 128), (0.5, 256), (0.3, 512))
WORDS = """
the a of and to in that it for on with as was at by this which or from but all were
""".split()  # noqa: SIM905
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}<|end|>{{ m['content'] }}"
    "<|stop|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>{% endif %}"
)
SHAPE = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 500000.0,
    "max_position_embeddings": 131072, "vocab_size": VOCABULARY, "bos_token_id": BOS,
    "eos_token_id": EOS, "pad_token_id": EOS, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
SMALL = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 2048, "dtype": "float32",
}  # fmt: skip


PARTS = ("bf16", "fp8", "seeds", "quickstart")


def main() -> None:
    """Make models and prompts, run the steps one after another, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run, in this order")
    parser.add_argument("--out", type=Path, help="where run.json and logs of the runs are kept")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out and args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty: what is there would be continued")
    if args.step:
        _STEPS[args.step[0]](json.loads(args.step[1]))
        return
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        out, prompts = Path(folder), 16 if args.cpu else 1024 if args.quick else 4096
        _make_models(out, SHAPE | (SMALL if args.cpu else {}))
        _make_prompts(out, prompts)
        dtype = {"dtype": "float32" if args.cpu else "bfloat16"}
        room = {} if args.cpu else {"gpu_memory_utilization": 0.9}
        options = {"load_format": "dummy", "max_model_len": 2048} | dtype | room
        job = {
            "out": folder, "runs": str((args.out or out).resolve()), "cpu": args.cpu,
            "limit": 240 if args.quick else 3600, "turns": 2 if args.quick else 4,
            "options": options,
        }  # fmt: skip
        for part in args.only or (PARTS[:1] if args.cpu or args.quick else PARTS):
            name = "float32" if args.cpu and part == "bf16" else part
            print(f"\n{_device(args.cpu)}, {name}, {prompts:,} prompts\n", flush=True)
            if part == "seeds":
                _compare_seeds(job)
            elif part == "quickstart":
                _quickstart(job)
            else:
                more = {"quantization": "fp8"} if part == "fp8" else {}
                _round(job | {"name": part, "options": options | more})


def _round(job: dict) -> None:
    print("| | ready | s | tokens/s | ratio | GPU busy | W |\n|---|---:|---:|---:|---:|---:|---:|")
    for base, steps in (("generate", ("generate", "build")), ("encode", ("encode", "score"))):
        first = None
        for step in steps:
            found = _run(step, job)
            if "failed" in found:
                print(f"| {step} | {found['failed']} | | | | | |", flush=True)
                continue
            rate = found["tokens"] / found["seconds"]
            first = rate if step == base else first
            ratio = f"{rate / first:.3f}" if first else "?"
            print(
                f"| {step} | {found['ready']:.1f} | {found['seconds']:.1f} | {rate:,.0f} | {ratio} "
                f"| {found['busy']} | {found['watts']} |",
                flush=True,
            )


def _compare_seeds(job: dict) -> None:
    print("| runner | sequences | tokens/s without | with a seed each | ratio, each turn |")
    print("|---|---:|---:|---:|---|")
    for runner in "1" if job["cpu"] else "21":
        for sequences in (256, 1024):
            choice = {"VLLM_USE_V2_MODEL_RUNNER": str(int(runner) - 1)}
            found = _run("seeds", job | {"sequences": sequences}, choice)
            if "failed" in found:
                print(f"| V{runner} | {sequences} | {found['failed']} | | |", flush=True)
                continue
            plain, seeded = ([found["tokens"] / t for t in turns] for turns in found["turns"])
            ratios = ", ".join(f"{b / a:.3f}" for a, b in zip(plain, seeded, strict=True))
            print(
                f"| V{runner} | {sequences} | {max(plain):,.0f} | {max(seeded):,.0f} | {ratios} |",
                flush=True,
            )


def _run(step: str, job: dict, more: dict | None = None) -> dict:
    """One step in a process of its own, the GPU watched meanwhile."""
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    if job["cpu"]:
        environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "CUDA_VISIBLE_DEVICES": ""}
    with _Watch(is_there=not job["cpu"]) as watch:
        command = [sys.executable, __file__, "--step", step, json.dumps(job)]
        code, printed = _call(command, job["limit"], environment | (more or {}))
    told = [line for line in printed.splitlines() if line.startswith("RESULT ")]
    if code or not told:
        print(printed[-3000:], file=sys.stderr, flush=True)
        return {"failed": f"exit code {code}"}
    return json.loads(told[-1][7:]) | watch.told()


def _call(command: list, limit: float, environment: dict) -> tuple[int, str]:
    """Exit code and output; what takes longer than so many seconds is killed."""
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        printed, _ = process.communicate(timeout=limit)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as err:
        os.killpg(process.pid, signal.SIGKILL)  # vLLM's engine may be a process of its own
        printed, _ = process.communicate()
        if isinstance(err, KeyboardInterrupt):
            raise
    return process.returncode, printed


class _Watch:
    """Utilisation and power of the GPU, once a second, by nvidia-smi."""

    def __init__(self, *, is_there: bool) -> None:
        self._is_there, self._over, self._seen = is_there, threading.Event(), []

    def __enter__(self) -> "_Watch":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while self._is_there and not self._over.wait(1):
            with suppress(ValueError):  # a part of a GPU does not tell
                told = _smi("utilization.gpu,power.draw").split(",")
                self._seen.append([float(part) for part in told])

    def told(self) -> dict:
        """Means over the seconds in which the GPU worked at all; and a line over time."""
        busy = [seen for seen in self._seen if seen[0] > 5]
        if not busy:
            return {"busy": "?", "watts": "?"}
        print(
            "  % busy, each second: " + " ".join(f"{one[0]:.0f}" for one in self._seen),
            file=sys.stderr,
        )
        mean = [sum(column) / len(busy) for column in zip(*busy, strict=True)]
        return {"busy": f"{mean[0]:.0f} %", "watts": f"{mean[1]:.0f}"}


def _generate(job: dict) -> None:
    from vllm import LLM

    llm = LLM(f"{job['out']}/lm", **_options(job))
    start = time.time()
    prompts, sampling = _requests(job, llm.get_tokenizer(), is_seeded=False)
    made = llm.generate(prompts, sampling, use_tqdm=False)
    _tell(start, sum(len(one.outputs[0].token_ids) for one in made))


def _seeds(job: dict) -> None:
    from vllm import LLM

    llm = LLM(f"{job['out']}/lm", **_options(job) | {"max_num_seqs": job["sequences"]})
    turns, tokens = ([], []), 0
    for turn in range(1 + job["turns"]):
        for is_seeded in (False, True):
            llm.reset_prefix_cache()
            prompts, sampling = _requests(job, llm.get_tokenizer(), is_seeded=is_seeded, samples=1)
            if turn == 0:  # kernels are compiled when they are first used
                prompts, sampling = prompts[:64], sampling[:64]
            start = time.time()
            made = llm.generate(prompts, sampling, use_tqdm=False)
            if turn > 0:
                turns[is_seeded].append(time.time() - start)
                tokens = sum(len(one.outputs[0].token_ids) for one in made)
    print("RESULT " + json.dumps({"turns": turns, "tokens": tokens}), flush=True)


def _requests(job: dict, tokenizer: object, *, is_seeded: bool, samples: int = 4) -> tuple:
    """Prompts and sampling parameters; one sample is of 128 tokens, four are of `LENGTHS`."""
    from vllm import SamplingParams

    lengths = _lengths(job) if samples > 1 else [(0.9, 8 if job["cpu"] else 128)]
    prompts, sampling = [], []
    for row in _lines(job, "prompts")[: None if samples > 1 else 1024]:
        chat = [{"role": "user", "content": row["prompt"]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        for temperature, most in lengths:
            prompts.append({"prompt_token_ids": ids})
            sampling.append(
                SamplingParams(
                    temperature=temperature, max_tokens=most, detokenize=False,
                    seed=len(prompts) if is_seeded else None, ignore_eos=samples == 1,
                )
            )  # fmt: skip
    return prompts, sampling


def _encode(job: dict) -> None:
    from vllm import LLM, PoolingParams

    llm = LLM(f"{job['out']}/rm", runner="pooling", **_options(job))
    tokenizer, start, chats = llm.get_tokenizer(), time.time(), []
    for row in _lines(job, "scored"):
        for text in (row["ra"], row["rb"]):
            chat = [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": text},
            ]
            chats.append(
                {"prompt_token_ids": tokenizer.apply_chat_template(chat, return_dict=False)}
            )
    llm.encode(chats, PoolingParams(use_activation=False), pooling_task="classify", use_tqdm=False)
    _tell(start, sum(len(chat["prompt_token_ids"]) for chat in chats))


def _build(job: dict) -> None:
    columns = [
        {"name": "candidates", "type": "candidates", "prompt": "{{ prompt }}", "samples": 1,
         "model_alias": [f"w{most}" for _, most in _lengths(job)]},
        {"name": "digits", "type": "verifier", "method": "regex", "pattern": "[13579]$",
         "candidates": "candidates"},
    ]  # fmt: skip
    models = [
        {"alias": f"w{most}", "model": f"{job['out']}/lm",
         "inference_parameters": {"temperature": temperature, "max_tokens": most}}
        for temperature, most in _lengths(job)
    ]  # fmt: skip
    pairs = {"candidates": "candidates", "score": "digits", "truncated_rejected": True}
    record = _prefdata(job, "prompts", models, columns, pairs)
    _tell_record(record, "generated", record["tokens"]["completion"])


def _score(job: dict) -> None:
    responses = ["ra", "rb"]
    column = {"name": "reward", "type": "reward_model", "model_alias": "rm"}
    columns = [column | {"responses": responses, "prompt": "{{ prompt }}"}]
    models = [{"alias": "rm", "model": f"{job['out']}/rm"}]
    record = _prefdata(job, "scored", models, columns, {"responses": responses, "score": "reward"})
    _tell_record(record, "scored", json.loads((Path(job["out"]) / "scored.tokens").read_text()))


def _prefdata(job: dict, seeds: str, models: list, columns: list, pairs: dict) -> dict:
    from prefdata.pipeline import build
    from prefdata.recipe.loader import load_recipe
    from prefdata.workers.machine import Machine, find_machine

    out = Path(job["out"])
    own = {"provider": "vllm", "skip_health_check": True, "engine": job["options"]}
    recipe = {
        "output_dir": "run",
        "seed_dataset": {"path": f"{seeds}.jsonl"},
        "models": [model | own for model in models],
        "columns": columns,
        "output_projection": {"type": "preference_pairs", "strategy": "best_vs_worst"} | pairs,
    }
    (out / f"{seeds}.yaml").write_text(json.dumps(recipe))
    machine = Machine() if job["cpu"] else find_machine(1, None)
    run, begun = Path(job["runs"]) / f"{job['name']}-{seeds}", time.time() - BEGIN
    record = build(load_recipe(out / f"{seeds}.yaml"), run, machine=machine)
    return record | {"begun": begun}


def _tell_record(record: dict, counted: str, tokens: int) -> None:
    """From the first replica that was ready to the last result."""
    told = record["throughput"]
    place = told["columns"].index(counted)
    end = next(sample for sample in told["samples"] if sample[place] == told["samples"][-1][place])
    _, _, ready = told["loads"][0]
    print(
        "RESULT "
        + json.dumps(
            {"ready": record["begun"] + ready, "seconds": end[0] - ready, "tokens": tokens}
        )
    )


def _tell(start: float, tokens: int) -> None:
    told = {"ready": start - BEGIN, "seconds": time.time() - start, "tokens": tokens}
    print("RESULT " + json.dumps(told), flush=True)


def _options(job: dict) -> dict:
    whole = {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": 4096}
    return job["options"] | {"seed": 0} | (whole if job["cpu"] else {})


def _lengths(job: dict) -> list:
    return [(temperature, most // 16 if job["cpu"] else most) for temperature, most in LENGTHS]


def _lines(job: dict, name: str) -> list:
    return [
        json.loads(line) for line in (Path(job["out"]) / f"{name}.jsonl").read_text().splitlines()
    ]


def _make_prompts(out: Path, prompts: int) -> None:
    rng = random.Random(7)

    def text(words: int) -> str:
        return " ".join(rng.choices(WORDS, k=max(10, words)))

    with (out / "prompts.jsonl").open("w") as file:
        for n in range(prompts):
            file.write(json.dumps({"prompt": f"{n} {text(round(rng.gauss(138, 25)))}"}) + "\n")
    tokens = 0
    with (out / "scored.jsonl").open("w") as file:
        for n in range(prompts * 2):
            row = {"prompt": f"{n} {text(60)}", "ra": text(round(rng.gauss(300, 80)))}
            row["rb"] = text(round(rng.gauss(300, 80)))
            tokens += sum(len(f"{row['prompt']} {row[name]}".split()) + 9 for name in ("ra", "rb"))
            file.write(json.dumps(row) + "\n")
    (out / "scored.tokens").write_text(str(tokens))


def _make_models(out: Path, shape: dict) -> None:
    """A word a token, and fillers up to the vocabulary: every id that is drawn decodes."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["<|unknown|>", "user", "assistant", *WORDS, *map(str, range(20_000))]
    vocabulary = {word: n for n, word in enumerate(known)}
    vocabulary |= {f"filler{n}": n for n in range(len(known), BOS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {BOS: "<|begin|>", EOS: "<|stop|>", BOS + 6: "<|start|>", BOS + 7: "<|end|>"}
    names = [special.get(n, f"<|special{n}|>") for n in range(BOS, VOCABULARY)]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>",
                                   eos_token="<|stop|>", pad_token="<|stop|>")  # fmt: skip
    fast.chat_template = TEMPLATE
    lm = {"architectures": ["LlamaForCausalLM"]}
    rm = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
    for name, head in (("lm", lm), ("rm", rm)):
        fast.save_pretrained(out / name)
        (out / name / "config.json").write_text(json.dumps(shape | head))


def _quickstart(job: dict) -> None:
    """The quickstart under vLLM, and again with what the first run has left in caches."""
    print("| | whole | text model ready | first, last text | reward model ready | first score |")
    print("|---|---:|---:|---:|---:|---:|")
    gpus = ["--gpus", "0" if job["cpu"] else "1"]
    for turn in ("first", "again"):
        run, start = Path(job["runs"]) / f"quickstart-{turn}", time.time()
        command = [sys.executable, "-m", "prefdata", "quickstart", "--out", str(run), *gpus]
        code, printed = _call(command, job["limit"], dict(os.environ))
        if code:
            print(printed[-3000:], file=sys.stderr, flush=True)
            print(f"| {turn} | exit code {code} | | | | |", flush=True)
            continue
        whole = time.time() - start
        told = json.loads((run / "run.json").read_text())["throughput"]
        texts, scores = (
            [sample[0] for sample, before in zip(told["samples"][1:], told["samples"], strict=False)
             if sample[place] > before[place]]
            for place in map(told["columns"].index, ("generated", "scored"))
        )  # fmt: skip
        text, reward = (load[2] for load in told["loads"])
        print(
            f"| {turn} | {whole:.1f} | {text:.1f} | {texts[0]:.1f}, {texts[-1]:.1f} | {reward:.1f} "
            f"| {scores[0]:.1f} |",
            flush=True,
        )


def _device(is_cpu: bool) -> str:
    return "CPU" if is_cpu else _smi("name")


def _smi(query: str) -> str:
    """What nvidia-smi tells of the GPU that is used."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    command = [
        "nvidia-smi",
        f"--id={first}",
        f"--query-gpu={query}",
        "--format=csv,noheader,nounits",
    ]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


_STEPS = {
    "generate": _generate,
    "seeds": _seeds,
    "build": _build,
    "encode": _encode,
    "score": _score,
}

if __name__ == "__main__":
    main()
