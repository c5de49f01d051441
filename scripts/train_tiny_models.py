"""Trains the quickstart's two models from scratch; prints held-out figures."""

import argparse
import bisect
import itertools
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tiny_world as world
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import distributed, multiprocessing
from torch.nn import functional
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

OUT = Path(__file__).parent.parent / "recipes" / "quickstart"
BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 7,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}


WORKERS = 2
"""Processes of one thread each; matrices this small are no faster on two threads."""

# The layers that are asked for results, and for grades of answers, so that those above can build
# on them (Lee et al. 2015, "Deeply-Supervised Nets").
RESULT_LAYER, GRADE_LAYER = 4, 6

# First the sums, plainly asked; then every task; last, with wrong answers among the right ones, so
# that the model samples at 0.9 as imperfectly as it was taught and still knows better.
LESSONS = (
    world.Lesson(90_000, 78, 20, 0, 1, 1, 0, wrong_share=0.0, bare_share=0.8),
    world.Lesson(70_000, 28, 10, 32, 13, 15, 2, wrong_share=0.0),
    world.Lesson(40_000, 46, 5, 26, 10, 11, 2, wrong_share=0.33),
)


@dataclass(frozen=True)
class Budget:
    """How much is learnt from, and how fast."""

    lessons: tuple[world.Lesson, ...] = LESSONS
    lm_rate: float = 2.0
    rm_questions: int = 12_000
    rm_rate: float = 0.4
    tokens_per_batch: int = 1000
    vocabulary: int = 1280


def main() -> None:
    """Train both models, replace the shipped ones, print the held-out table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate-only", action="store_true", help="print the table for --out")
    parser.add_argument("--questions", type=int, default=1000, help="of the table")
    args = parser.parse_args()
    started = time.perf_counter()
    if not args.evaluate_only:
        train(args.out, args.seed, Budget())
        print(f"trained in {time.perf_counter() - started:.0f} s", flush=True)
    torch.set_num_threads(1)
    evaluate(args.out, args.seed, args.questions)
    print(f"wall {time.perf_counter() - started:.0f} s")


def train(out: Path, seed: int, budget: Budget) -> None:
    """The tokenizer, then both models by `WORKERS` processes that share each step."""
    # from splits that neither model sees
    write_prompts(out / "prompts.jsonl", world.make_questions(240, seed, "seeds"))
    write_prompts(out / "heldout.jsonl", world.make_questions(500, seed + 1, "heldout"))
    tokenizer = train_tokenizer(budget, seed)
    with tempfile.TemporaryDirectory() as meeting:
        multiprocessing.spawn(
            work, (f"file://{meeting}/rank", tokenizer, out / "models", seed, budget), WORKERS
        )


def work(
    rank: int,
    meeting: str,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    seed: int,
    budget: Budget,
) -> None:
    """The whole story in one worker: language model, its own answers, reward model."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", meeting, rank=rank, world_size=WORKERS)
    torch.manual_seed(seed)
    taught = train_language_model(tokenizer, seed, budget)
    if rank == 0:
        save(taught.lm, tokenizer, out / "lm")
    rm = train_reward_model(taught, tokenizer, seed, budget)
    if rank == 0:
        save(rm, tokenizer, out / "rm")
    distributed.destroy_process_group()


# ---- tokenizer --------------------------------------------------------------------------------


def train_tokenizer(budget: Budget, seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so any text encodes; a number below 120, in digits or words, is one token.

    It adds no begin token: the chat template writes it, so a rendered chat that is encoded
    as plain text has exactly one.
    """
    bpe = Tokenizer(models.BPE())
    pieces = Regex(r" ?\p{N}{1,3}| ?\p{L}+(?:-\p{L}+)*| ?[^\s\p{L}\p{N}]+|\s")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=budget.vocabulary,
        special_tokens=[PAD, BEGIN, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    examples = itertools.islice(world.lesson_examples(budget.lessons[1], seed), 20_000)
    texts = (message["content"] for example in examples for message in example.messages)
    numbers = [str(number) for number in range(120)] + list(world.number_words())
    rehearsed = [text for number in numbers for text in [number, f"a {number}"] * 50]
    bpe.train_from_iterator([*texts, *rehearsed], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=SHAPE["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )


def render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[world.Message], ask: bool) -> str:
    """The chat as text; with `ask`, up to where the assistant's turn begins."""
    return str(
        tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
    )


# ---- language model ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """Token ids; what each weighs (0: not learnt); the results, and grades of answers, by place.

    A grade (1 right, 0 wrong) stands on the token after the answer; the assistant's turn begins
    after `start`.
    """

    ids: list[int]
    start: int
    weights: list[float]
    results: list[int]
    grades: dict[int, bool]


@dataclass(frozen=True)
class Tokens:
    """What is known of the vocabulary: weights in the loss, numbers, the assistant's mark."""

    weights: list[float]
    numbers: frozenset[int]
    assistant: int


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[world.Example]) -> list[Encoded]:
    """Learnt are the assistant's own words and right answers."""
    texts = [render(tokenizer, example.messages, ask=False) for example in examples]
    # the tokenizer itself, not its backend, which would pad once anything was sampled
    batch = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    numbers = frozenset(token for token, _ in number_tokens(tokenizer))
    [assistant] = tokenizer.encode(ROLES[-1])
    tokens = Tokens(token_weights(tokenizer), numbers, assistant)
    encodings = zip(examples, texts, batch["input_ids"], batch["offset_mapping"], strict=True)
    return [_encode_one(*encoding, tokens) for encoding in encodings]


def _encode_one(
    example: world.Example,
    text: str,
    ids: list[int],
    offsets: list[tuple[int, int]],
    tokens: Tokens,
) -> Encoded:
    places = [_place(text, example, number) for number in range(len(example.answers))]
    learnt = [
        (end - len(answer.text), end)
        for end, answer in zip(places, example.answers, strict=True)
        if answer.is_right
    ]
    if example.is_spoken:
        learnt.append((len(text) - len(example.messages[-1]["content"] + END), len(text)))
    is_learnt = [any(low < end <= high for low, high in learnt) for _, end in offsets]
    starts = [start for start, _ in offsets]
    numbers = [
        place for place, token in enumerate(ids) if is_learnt[place] and token in tokens.numbers
    ]
    weights = [tokens.weights[token] * known for token, known in zip(ids, is_learnt, strict=True)]
    if example.is_free:
        for place in numbers:
            weights[place] = FREE_WEIGHT
    return Encoded(
        ids=ids,
        start=len(ids) - 1 - ids[::-1].index(tokens.assistant),
        weights=weights,
        results=[] if example.is_free else numbers,
        grades={
            bisect.bisect_left(starts, end): answer.is_right
            for end, answer in zip(places, example.answers, strict=True)
        },
    )


def _place(text: str, example: world.Example, number: int) -> int:
    """Where the answer of this number ends in the text."""
    end = 0
    for answer in example.answers[: number + 1]:
        end = text.index(answer.text, end) + len(answer.text)
    return end


@dataclass(frozen=True)
class Taught:
    """The language model, and the row that turns its last hidden state into a grade."""

    lm: LlamaForCausalLM
    grader: torch.nn.Linear


def train_language_model(tokenizer: PreTrainedTokenizerFast, seed: int, budget: Budget) -> Taught:
    """One pass over the lessons, in order."""
    lm = new_language_model(tokenizer)
    taught = Taught(lm, torch.nn.Linear(SHAPE["hidden_size"], 1, bias=False))
    encoded: list[Encoded] = []
    batches: list[list[int]] = []
    for lesson in budget.lessons:
        fresh = encode(tokenizer, list(world.lesson_examples(lesson, seed)))
        lengths = [len(item.ids) for item in fresh]
        for batch in _batches(lengths, seed, budget.tokens_per_batch):
            batches.append([len(encoded) + i for i in batch])
        encoded += fresh
    mine = _share(batches)
    stepper = Stepper([lm, taught.grader], budget.lm_rate, len(mine))
    for batch in mine:
        stepper.step(lesson_loss(taught, [encoded[i] for i in batch]))
    lm.eval()
    return taught


FREE_WEIGHT = 0.25
"""Of a number that could as well be another, in the loss."""


def token_weights(tokenizer: PreTrainedTokenizerFast) -> list[float]:
    """Results, verdicts, copied words and the ends of list items say more than other words."""
    weights = [1.0] * len(tokenizer)
    heavy = [token for token, _ in number_tokens(tokenizer)]
    for text in ("A", "B", ",", "\n", END):
        heavy += tokenizer.encode(text)
    for thing in world.THINGS:
        heavy += tokenizer.encode(" " + thing)
    for token in heavy:
        weights[token] = 4.0
    return weights


def lesson_loss(taught: Taught, items: Sequence[Encoded]) -> torch.Tensor:
    """Next tokens; results once more from the result layer; grades from the grade layer."""
    lm, width = taught.lm, max(len(item.ids) for item in items)
    ids = torch.tensor(
        [item.ids + [lm.config.pad_token_id] * (width - len(item.ids)) for item in items]
    )
    weights = torch.tensor([item.weights + [0.0] * (width - len(item.ids)) for item in items])
    states = lm.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    mask = weights[:, 1:] > 0
    losses = functional.cross_entropy(
        lm.lm_head(states[-1][:, :-1][mask]), ids[:, 1:][mask], reduction="none"
    )
    learnt = weights[:, 1:][mask]
    loss = (losses * learnt).sum() / learnt.sum()
    places = [
        (row, before, item.ids[place])
        for row, item in enumerate(items)
        for place in item.results
        for before in _on_the_way(item, place)
    ]
    if places:
        rows, columns, results = torch.tensor(places).unbind(1)
        early = lm.lm_head(lm.model.norm(states[RESULT_LAYER][rows, columns]))
        loss = loss + 0.5 * functional.cross_entropy(early, results)
    places = [(row, place) for row, item in enumerate(items) for place in item.grades]
    if places:
        rows, columns = torch.tensor(places).unbind(1)
        grades = torch.tensor([float(grade) for item in items for grade in item.grades.values()])
        logits = taught.grader(lm.model.norm(states[GRADE_LAYER][rows, columns]))[:, 0]
        loss = loss + 0.5 * functional.binary_cross_entropy_with_logits(logits, grades)
    return loss


def _on_the_way(item: Encoded, place: int) -> range:
    """From the beginning of a short answer to the token before its result: all can know it."""
    begin = item.start
    return range(begin if 0 <= place - begin <= 8 else place - 1, place)


@torch.no_grad()
def new_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random, but every block starts as the identity and number tokens know their size."""
    lm = LlamaForCausalLM(_config(tokenizer))
    lm.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    for name, weight in lm.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            weight.zero_()
    # The same directions for both tables: a result that is thought looks like one that is read.
    directions = torch.randn(38, SHAPE["hidden_size"]) / 10**0.5
    for table, scale in ((lm.model.embed_tokens.weight, 0.5), (lm.lm_head.weight, 0.02)):
        table.normal_(std=scale)
        for token, value in number_tokens(tokenizer):
            table[token] = 0.5 * table[token] + scale * (number_features(value) @ directions)
    return lm


def number_features(value: int) -> torch.Tensor:
    """Waves of several periods, as positions have, and a code per digit; 38 numbers.

    Shared by a number in digits and in words; without it the sums take hours to learn.
    """
    waves = torch.tensor([2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 400.0])
    angles = 2 * torch.pi * value / waves
    tens = functional.one_hot(torch.tensor(value // 10), 12)
    ones = functional.one_hot(torch.tensor(value % 10), 10)
    return torch.cat([angles.sin(), angles.cos(), tens, ones])


def number_tokens(tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[int, int]]:
    """Every token that is a number below 120, in digits or in words, with its value."""
    for token in range(len(tokenizer)):
        word = tokenizer.decode([token]).strip()
        value = int(word) if word.isdecimal() else world.number_words().get(word)
        if value is not None and value < 120:
            yield token, value


def _config(tokenizer: PreTrainedTokenizerFast, **more: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        **SHAPE,
        **more,
    )


def _share(batches: Sequence[list[int]]) -> Sequence[list[int]]:
    """Every WORKERS-th batch from this worker's own; as many for each."""
    return batches[distributed.get_rank() : len(batches) // WORKERS * WORKERS : WORKERS]


def _batches(lengths: Sequence[int], seed: int, tokens: int) -> list[list[int]]:
    """Batches of neighbours in length, at most `tokens` padded tokens each, in random order.

    Lengths are blurred a little, so that a batch mixes tasks.
    """
    rng = random.Random(f"batches/{seed}")
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * rng.uniform(0.9, 1.1))
    batches: list[list[int]] = [[]]
    longest = 0
    for i in order:
        longest = max(longest, lengths[i])
        if longest * (len(batches[-1]) + 1) > tokens:
            batches.append([])
            longest = lengths[i]
        batches[-1].append(i)
    rng.shuffle(batches)
    return batches


class Stepper:
    """Muon for the matrices and AdamW for the rest; warm-up, then down to zero."""

    def __init__(self, modules: Sequence[torch.nn.Module], rate: float, steps: int) -> None:
        """At `rate` 1, Muon steps at 3e-3 and AdamW at 1.5e-3."""
        named = [pair for module in modules for pair in module.named_parameters()]
        matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        self.parameters = [p for _, p in named]
        self.steps, self.done, self.loss = steps, 0, 0.0
        self.started = time.perf_counter()
        self.optimizers = [
            torch.optim.AdamW(others, lr=1.5e-3 * rate, betas=(0.9, 0.98), weight_decay=0.0),
            torch.optim.Muon(
                matrices, lr=3e-3 * rate, weight_decay=0.5, adjust_lr_fn="match_rms_adamw"
            ),
        ]
        self.rates = [group["lr"] for opt in self.optimizers for group in opt.param_groups]

    def step(self, loss: torch.Tensor) -> None:
        """One update, and a line of progress now and then."""
        share = self.done / self.steps
        scale = min(self.done / 50, 1 - share)
        groups = [group for opt in self.optimizers for group in opt.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * scale
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        self._average()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.done += 1
        self.loss += (loss.item() - self.loss) / min(self.done, 50)
        is_due = self.done % 200 == 0 or self.done == self.steps
        if is_due and distributed.get_rank() == 0:
            spent = time.perf_counter() - self.started
            print(f"step {self.done}/{self.steps} loss {self.loss:.3f} {spent:.0f} s", flush=True)

    def _average(self) -> None:
        """The mean of the workers' gradients, in every worker."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        parts = flat.div_(WORKERS).split([grad.numel() for grad in grads])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


# ---- sampling ---------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    lm: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asks: Sequence[str],
    temperature: float,
    max_tokens: int = 32,
) -> list[str]:
    """One plain sample (top_p 1) per user message, in order."""
    texts = [render(tokenizer, [{"role": "user", "content": ask}], ask=True) for ask in asks]
    order = sorted(range(len(asks)), key=lambda i: len(texts[i]))
    replies = [""] * len(asks)
    for start in range(0, len(order), 256):
        chunk = order[start : start + 256]
        inputs = tokenizer(
            [texts[i] for i in chunk], return_tensors="pt", padding=True, padding_side="left",
            return_token_type_ids=False,
        )  # fmt: skip
        output = lm.generate(
            **inputs, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
            max_new_tokens=max_tokens,
        )  # fmt: skip
        new = output[:, inputs["input_ids"].shape[1] :]
        for i, reply in zip(
            chunk, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
        ):
            replies[i] = reply
    return replies


# ---- reward model -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Graded:
    """An answer to a question and whether it is right."""

    ask: str
    reply: str
    is_right: bool


def train_reward_model(
    taught: Taught, tokenizer: PreTrainedTokenizerFast, seed: int, budget: Budget
) -> LlamaForSequenceClassification:
    """Starts from the language model's body and grader; one logit per answer."""
    rm = LlamaForSequenceClassification(_config(tokenizer, num_labels=1))
    rm.model.load_state_dict(taught.lm.model.state_dict())
    rm.score.load_state_dict(taught.grader.state_dict())
    torch.manual_seed(seed + distributed.get_rank())
    graded: list[Graded] = []
    for part in _gather(_graded_answers(taught.lm, tokenizer, seed, budget.rm_questions)):
        graded += part
    ids = encode_graded(tokenizer, graded)
    mine = _share(_batches([len(item) for item in ids], seed, budget.tokens_per_batch))
    stepper = Stepper([rm], budget.rm_rate, len(mine))
    for batch in mine:
        targets = torch.tensor([float(graded[i].is_right) for i in batch])
        logits = score(rm, [ids[i] for i in batch])
        stepper.step(functional.binary_cross_entropy_with_logits(logits, targets))
    return rm.eval()


def _gather(graded: list[Graded]) -> list[list[Graded]]:
    """What each worker has, in every worker."""
    parts: list[list[Graded]] = [[]] * WORKERS
    distributed.all_gather_object(parts, graded)
    return parts


def _graded_answers(
    lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, n: int
) -> list[Graded]:
    """This worker's share: per question one sample, a right phrase, a slip; a few off the point."""
    rng = random.Random(f"graded/{seed}/{distributed.get_rank()}")
    questions = [world.draw_question(rng, "train") for _ in range(n // WORKERS)]
    asks = [world.wrap_question(question, rng) for question in questions]
    replies = sample(lm, tokenizer, asks, temperature=0.9)
    graded = []
    for question, ask, reply in zip(questions, asks, replies, strict=True):
        drawn = [world.draw_answer(question, rng, share, far_share=0.1).text for share in (0, 1)]
        for text in (reply, *drawn):
            graded.append(Graded(ask, text, world.is_right(text, question.answer)))
        if rng.random() < 0.1:
            beside = rng.choice(("", "I do not know.", question.text, rng.choice(replies)))
            graded.append(Graded(ask, beside, world.is_right(beside, question.answer)))
    return graded


def encode_graded(tokenizer: PreTrainedTokenizerFast, graded: Sequence[Graded]) -> list[list[int]]:
    """Token ids of the [user, assistant] chats, without a generation prompt."""
    texts = [
        render(tokenizer, [{"role": "user", "content": item.ask},
                           {"role": "assistant", "content": item.reply}], ask=False)
        for item in graded
    ]  # fmt: skip
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def score(rm: LlamaForSequenceClassification, ids: Sequence[list[int]]) -> torch.Tensor:
    """Raw logits, higher is better; the last token that is not padding decides."""
    width = max(len(item) for item in ids)
    pad = rm.config.pad_token_id
    padded = torch.tensor([item + [pad] * (width - len(item)) for item in ids])
    return rm(input_ids=padded, use_cache=False).logits[:, 0]


# ---- files ------------------------------------------------------------------------------------


def save(
    model: LlamaForCausalLM | LlamaForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    path: Path,
) -> None:
    """Model and tokenizer under a temporary name, then in place of what was there."""
    fresh = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.backend_tokenizer.no_padding()  # sampling switched it on
    tokenizer.save_pretrained(fresh)
    for file in fresh.iterdir():
        file.chmod(0o644)  # safetensors makes its files for the owner alone
    if path.exists():
        stale = path.with_name(f".{path.name}.old")
        path.rename(stale)
        fresh.rename(path)
        shutil.rmtree(stale)
    else:
        fresh.rename(path)


def write_prompts(path: Path, questions: Sequence[world.Question]) -> None:
    """Questions with their answers, one a line."""
    lines = [
        json.dumps({"prompt": question.text, "answer": question.answer,
                    "operation": question.operation, "form": question.form})
        for question in questions
    ]  # fmt: skip
    fresh = path.with_suffix(".tmp")
    fresh.write_text("\n".join(lines) + "\n")
    fresh.replace(path)


# ---- held-out figures -------------------------------------------------------------------------


def evaluate(out: Path, seed: int, n: int) -> None:
    """Prints the table; questions come from the heldout split, wrappers from `world.HELD_OUT`."""
    torch.manual_seed(seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "models" / "lm")
    lm = LlamaForCausalLM.from_pretrained(out / "models" / "lm", dtype=torch.float32).eval()
    rm = LlamaForSequenceClassification.from_pretrained(
        out / "models" / "rm", dtype=torch.float32
    ).eval()
    questions = world.make_questions(n, seed, "heldout")
    hot = answer(lm, tokenizer, questions, 0.9)
    cool = answer(lm, tokenizer, questions, 0.3)
    again = answer(lm, tokenizer, questions, 0.9)
    rows = [
        ("answers right at temperature 0.9", share_right(hot)),
        ("answers right at temperature 0.3", share_right(cool)),
        ("reward model: AUC on the model's own answers at 0.9", auc(rm, tokenizer, hot)),
        *judge_rows(lm, tokenizer, questions, list(zip(hot, again, strict=True))),
        *list_rows(lm, tokenizer, seed),
    ]
    print(f"\nheld-out figures ({n} questions)")
    for name, value in rows:
        print(f"{name:<66} {value:.3f}")


def answer(
    lm: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[world.Question],
    temperature: float,
) -> list[Graded]:
    """One sampled answer per question; the held-out wrappers take turns."""
    wrappers = world.HELD_OUT.answer
    asks = [
        wrappers[i % len(wrappers)].format(question=question.text)
        for i, question in enumerate(questions)
    ]
    replies = sample(lm, tokenizer, asks, temperature)
    return [
        Graded(ask, reply, world.is_right(reply, question.answer))
        for ask, reply, question in zip(asks, replies, questions, strict=True)
    ]


def share_right(graded: Sequence[Graded]) -> float:
    """The share of right answers."""
    return sum(item.is_right for item in graded) / len(graded)


@torch.no_grad()
def auc(
    rm: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, graded: Sequence[Graded]
) -> float:
    """How often a right answer scores above a wrong one, over all pairs; a tie counts half."""
    ids = encode_graded(tokenizer, graded)
    scores = torch.cat([score(rm, [item]) for item in ids])
    is_right = torch.tensor([item.is_right for item in graded])
    margins = scores[is_right][:, None] - scores[~is_right][None, :]
    return float((margins > 0).float().mean() + (margins == 0).float().mean() / 2)


Rows = list[tuple[str, float]]


def judge_rows(
    lm: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[world.Question],
    pairs: Sequence[tuple[Graded, Graded]],
) -> Rows:
    """Verdicts on the model's own pairs with exactly one right answer, in both orders."""
    contested = [
        (question, first, second)
        for question, (first, second) in zip(questions, pairs, strict=True)
        if first.is_right != second.is_right
    ]
    rows: Rows = []
    for number, wrapper in enumerate(world.HELD_OUT.judge):
        asks, winners = [], []
        for question, first, second in contested:
            for a, b in ((first, second), (second, first)):
                ask = wrapper.format(question=question.text, response_a=a.reply, response_b=b.reply)
                asks.append(ask)
                winners.append(world.verdict("A" if a.is_right else "B"))
        for temperature in (0.9, 0.3):
            said = sample(lm, tokenizer, asks, temperature, max_tokens=16)
            right = [a == b for a, b in zip(said, winners, strict=True)]
            both = [a and b for a, b in zip(right[::2], right[1::2], strict=True)]
            name = f"judge, wrapper {number + 1}, {len(contested)} pairs, temperature {temperature}"
            rows.append((f"{name}: right", sum(right) / len(right)))
            rows.append((f"{name}: right in both orders", sum(both) / len(both)))
    return rows


def list_rows(lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> Rows:
    """How often lists of subtopics and of questions have the form that was asked for."""
    rng = random.Random(f"lists/{seed}")
    topics = [(topic, n) for topic in world.TOPICS for n in range(2, 11)]
    subtopics = [(rng.choice(world.SUBTOPICS).name, rng.randint(2, 6)) for _ in range(80)]
    rows: Rows = []
    for temperature in (0.9, 0.3):
        asks = [
            rng.choice(world.HELD_OUT.subtopics).format(topic=topic, n=n) for topic, n in topics
        ]
        replies = sample(lm, tokenizer, asks, temperature, max_tokens=96)
        good = [is_subtopic_list(reply, n) for reply, (_, n) in zip(replies, topics, strict=True)]
        rows.append((f"subtopic lists well formed at {temperature}", sum(good) / len(good)))
        asks = [
            rng.choice(world.HELD_OUT.questions).format(subtopic=name, n=n) for name, n in subtopics
        ]
        replies = sample(lm, tokenizer, asks, temperature, max_tokens=320)
        good = [
            is_question_list(reply, n) for reply, (_, n) in zip(replies, subtopics, strict=True)
        ]
        rows.append((f"question lists well formed at {temperature}", sum(good) / len(good)))
    return rows


def is_subtopic_list(text: str, n: int) -> bool:
    """Exactly n distinct names between commas, without digits or lines."""
    names = [name.strip() for name in text.split(",")]
    is_plain = not any(sign.isdigit() or sign in "\n:." for sign in text)
    return is_plain and all(names) and len(names) == len(set(names)) == n


def is_question_list(text: str, n: int) -> bool:
    """Exactly n distinct lines, each a question of this world with a right answer."""
    lines = text.splitlines()
    return len(lines) == len(set(lines)) == n and all(
        world.read_answer(line) is not None for line in lines
    )


if __name__ == "__main__":
    main()
