"""prefdata against one call of vLLM's own class, on this machine's GPU, in one run.

    python scripts/bench_gpu.py --quick  # bf16, within 6 minutes on an H200
    python scripts/bench_gpu.py          # four times the prompts, then FP8, then the quickstart
    .venv-vllm/bin/python scripts/bench_gpu.py --cpu  # tiny shapes on vLLM's CPU build

Nothing is downloaded: a model folder of Llama-3.1-8B's shape and its tokenizer are made here, the
weights are random. Each step is a process of its own. Ratios are to `LLM.generate` without seeds,
and to `LLM.encode`; `prefdata` counts from its first to its last result.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

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


def main() -> None:
    """Make models and prompts, run the steps one after another, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        _STEPS[args.step[0]](json.loads(args.step[1]))
        return
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        out, prompts = Path(folder), 16 if args.cpu else 1024 if args.quick else 4096
        _make_models(out, SHAPE | (SMALL if args.cpu else {}))
        _make_prompts(out, prompts)
        rounds = [{}] if args.cpu or args.quick else [{}, {"quantization": "fp8"}]
        for more in rounds:
            dtype, room = (
                ("float32", {}) if args.cpu else ("bfloat16", {"gpu_memory_utilization": 0.9})
            )
            options = {"load_format": "dummy", "dtype": dtype, "max_model_len": 2048} | room | more
            job = {"out": folder, "cpu": args.cpu, "options": options}
            print(
                f"\n{_device(args.cpu)}, {more.get('quantization', dtype)}, "
                f"{prompts:,} prompts x 4\n"
            )
            _round(job)
        if not (args.cpu or args.quick):
            _quickstart(out)


def _round(job: dict) -> None:
    print("| | s | tokens/s | ratio | GPU busy | W |\n|---|---:|---:|---:|---:|---:|")
    for base, steps in (
        ("generate", ("generate", "seeded", "build")),
        ("encode", ("encode", "score")),
    ):
        first = None
        for step in steps:
            found = _run(step, job)
            if "failed" in found:
                print(f"| {step} | {found['failed']} | | | | |", flush=True)
                continue
            rate = found["tokens"] / found["seconds"]
            first = rate if step == base else first
            ratio = f"{rate / first:.2f}" if first else "?"
            busy, watts = found["busy"], found["watts"]
            print(
                f"| {step} | {found['seconds']:.1f} | {rate:,.0f} | {ratio} | {busy} | {watts} |",
                flush=True,
            )


def _run(step: str, job: dict) -> dict:
    """One step in a process of its own, the GPU watched meanwhile."""
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    if job["cpu"]:
        environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "CUDA_VISIBLE_DEVICES": ""}
    with _Watch(is_there=not job["cpu"]) as watch:
        done = subprocess.run(
            [sys.executable, __file__, "--step", step, json.dumps(job)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not told:
        print(done.stdout[-3000:], file=sys.stderr)
        return {"failed": f"exit code {done.returncode}"}
    return json.loads(told[-1][7:]) | watch.told()


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
        query = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu,power.draw",
            "--format=csv,noheader,nounits",
        ]
        while self._is_there and not self._over.wait(1):
            line = subprocess.run(query, stdout=subprocess.PIPE, text=True).stdout.splitlines()[0]
            self._seen.append([float(part) for part in line.split(",")])

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


def _generate(job: dict, *, is_seeded: bool = False) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(f"{job['out']}/lm", enable_prefix_caching=True, **_options(job))
    tokenizer = llm.get_tokenizer()
    start, prompts, sampling = time.time(), [], []
    for number, row in enumerate(_lines(job, "prompts")):
        chat = [{"role": "user", "content": row["prompt"]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        for k, (temperature, most) in enumerate(_lengths(job)):
            prompts.append({"prompt_token_ids": ids})
            seed = number * 4 + k if is_seeded else None
            sampling.append(
                SamplingParams(
                    temperature=temperature, max_tokens=most, seed=seed, detokenize=False
                )
            )
    made = llm.generate(prompts, sampling, use_tqdm=False)
    _tell(start, sum(len(one.outputs[0].token_ids) for one in made))


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
        "output_dir": str(out / f"run-{seeds}"),
        "seed_dataset": {"path": f"{seeds}.jsonl"},
        "models": [model | own for model in models],
        "columns": columns,
        "output_projection": {"type": "preference_pairs", "strategy": "best_vs_worst"} | pairs,
    }
    (out / f"{seeds}.yaml").write_text(json.dumps(recipe))
    machine = Machine() if job["cpu"] else find_machine(1, None)
    with tempfile.TemporaryDirectory() as run:
        return build(load_recipe(out / f"{seeds}.yaml"), Path(run) / "run", machine=machine)


def _tell_record(record: dict, counted: str, tokens: int) -> None:
    """From the first to the last result, and the tokens of what came after the first sample."""
    place = record["throughput"]["columns"].index(counted)
    samples = record["throughput"]["samples"]
    last = samples[-1][place]
    first = next(sample for sample in samples if sample[place])
    end = next(sample for sample in samples if sample[place] == last)
    share = 1 - first[place] / last
    print(
        "RESULT " + json.dumps({"seconds": max(end[0] - first[0], 1e-3), "tokens": tokens * share})
    )


def _tell(start: float, tokens: int) -> None:
    print("RESULT " + json.dumps({"seconds": time.time() - start, "tokens": tokens}), flush=True)


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


def _quickstart(out: Path) -> None:
    recipe = Path(__file__).resolve().parent.parent / "recipes" / "quickstart" / "recipe.yaml"
    command = [sys.executable, "-m", "prefdata", "build", str(recipe), "--gpus", "1"]
    start = time.time()
    subprocess.run(
        [*command, "--out", str(out / "quickstart")], check=True, stdout=subprocess.DEVNULL
    )
    print(f"\nquickstart on the GPU: {time.time() - start:.0f} s")


def _device(is_cpu: bool) -> str:
    if is_cpu:
        return "CPU"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[
        0
    ]


_STEPS = {
    "generate": _generate,
    "seeded": lambda job: _generate(job, is_seeded=True),
    "build": _build,
    "encode": _encode,
    "score": _score,
}

if __name__ == "__main__":
    main()
