"""The tiny world: its questions, answers, wrappers and checkers. Knows nothing of models."""

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

Split = Literal["train", "heldout", "seeds"]
Form = Literal["digits", "words"]
Operands = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """One question with its one right answer.

    `frames` are the sentences that may answer it; `{r}` stands for the result, always in digits
    and always the last number, so `is_right` can decide.
    """

    text: str
    answer: int
    operation: str
    form: Form
    operands: Operands
    frames: tuple[str, ...]


@dataclass(frozen=True)
class Subtopic:
    """What the questions of a list are about: one operation, or stories about one kind of thing."""

    name: str
    operation: str | None = None
    form: Form | None = None
    thing: str | None = None


def make_questions(
    n: int, seed: int, split: Split, subtopic: Subtopic | None = None
) -> list[Question]:
    """N distinct questions of one split, the same for the same arguments.

    The splits are disjoint by construction: a hash of the sorted operands decides (see `split_of`),
    so operands seen in one split are unseen in the others, in every operation and phrasing.
    """
    rng = random.Random(f"{split}/{seed}")
    found: dict[str, Question] = {}
    while len(found) < n:
        question = draw_question(rng, split, subtopic)
        found.setdefault(question.text, question)
    return list(found.values())


def is_right(text: str, answer: int) -> bool:
    """Whether the last number in the text equals the reference; no number is wrong."""
    numbers = re.findall(r"\d+", text)
    return bool(numbers) and int(numbers[-1]) == answer


def read_answer(question: str) -> int | None:
    """The reference answer of a question that a model wrote; None if it is not of this world."""
    for operation in OPERATIONS.values():
        for pattern in _patterns(operation):
            match = pattern.fullmatch(question.strip())
            if match:
                operands = tuple(_to_number(match[key]) for key in operation.keys)
                return operation.compute(*operands) if operation.allows(*operands) else None
    return None


def split_of(operands: Operands) -> Split:
    """Train (70 %), heldout (15 %) or seeds (15 %), from a hash of the sorted operands."""
    digest = hashlib.sha256(repr(sorted(operands)).encode()).digest()[0] % 20
    return "heldout" if digest < 3 else "seeds" if digest < 6 else "train"


def draw_question(rng: random.Random, split: Split, subtopic: Subtopic | None = None) -> Question:
    """One question of the split, about the subtopic if one is given."""
    name = subtopic and subtopic.operation
    thing = subtopic and subtopic.thing
    operation = OPERATIONS[name or rng.choice(STORY_NAMES if thing else OPERATION_NAMES)]
    is_story = thing is not None or (
        name is None and bool(operation.stories) and rng.random() < 0.5
    )
    form = (subtopic and subtopic.form) or ("words" if rng.random() < 0.3 else "digits")
    operands = operation.draw(rng)
    while split_of(operands) != split:
        operands = operation.draw(rng)
    actors = rng.sample(NAMES, 2)
    words = {"name": actors[0], "other": actors[1], "thing": thing or rng.choice(THINGS)}
    phrasing = rng.choice(operation.stories if is_story else operation.plain)
    if form == "words" and not re.search(r"[a-z]", phrasing):
        phrasing = operation.plain[0]
    numbers = dict(zip(operation.keys, operands, strict=True))
    shown = {
        key: in_words(value) if form == "words" else str(value) for key, value in numbers.items()
    }
    frames = FRAMES + (STORY_FRAMES if is_story else operation.restated)
    return Question(
        text=_capitalised(phrasing.format(**shown, **words)),
        answer=operation.compute(*operands),
        operation=operation.name,
        form=form,
        operands=operands,
        frames=tuple(frame.format(r="{r}", **numbers, **words) for frame in frames),
    )


def slip(question: Question, rng: random.Random) -> int:
    """A wrong result of the kind people make: a ten slipped, or the wrong operation.

    It is at least eight off: to see that takes a sense of size, which a small network learns in
    minutes; to see that a result is one off takes the exact sum.
    """
    right = question.answer
    chosen = right + rng.choices([-10, 10, -20, 20], weights=[4, 4, 2, 2])[0]
    if rng.random() < 0.2:
        chosen = rng.choice(OPERATIONS[question.operation].mistaken(*question.operands))
    return chosen if chosen >= 0 and abs(chosen - right) >= 8 else right + rng.choice((10, 20))


def phrase_answer(question: Question, result: int, rng: random.Random) -> str:
    """The result in one of the question's answer frames."""
    return rng.choice(question.frames).format(r=result)


# ---- operations -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """How to draw operands, compute, slip and ask; stories also name people and things."""

    name: str
    draw: Callable[[random.Random], Operands]
    compute: Callable[..., int]
    mistaken: Callable[..., tuple[int, ...]]
    plain: tuple[str, ...]
    restated: tuple[str, ...]
    stories: tuple[str, ...] = ()
    allows: Callable[..., bool] = lambda *operands: True

    @property
    def keys(self) -> str:
        """The letters its phrasings use for the operands, in order."""
        return "ab" if "{b}" in self.plain[0] else "a"


def _pair(rng: random.Random) -> Operands:
    return rng.randint(1, 49), rng.randint(1, 20)


def _descending_pair(rng: random.Random) -> Operands:
    b = rng.randint(1, 20)
    return b + rng.randint(1, 49), b


def _distinct_pair(rng: random.Random) -> Operands:
    a = rng.randint(1, 60)
    low_high = (a, a + rng.randint(8, 39))
    return low_high if rng.random() < 0.5 else low_high[::-1]


def _single(low: int, high: int, step: int = 1) -> Callable[[random.Random], Operands]:
    return lambda rng: (rng.randrange(low, high, step),)


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(
            "addition",
            _pair,
            lambda a, b: a + b,
            lambda a, b: (abs(a - b), a + b + 10),
            (
                "What is {a} plus {b}?",
                "How much is {a} and {b} together?",
                "Add {a} and {b}.",
                "What is the sum of {a} and {b}?",
                "Calculate {a} plus {b}.",
                "What do you get if you add {a} to {b}?",
                "{a} + {b} = ?",
            ),
            ("{a} plus {b} is {r}.", "{a} + {b} = {r}", "The sum is {r}."),
            (
                "{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?",
                "There are {a} {thing} in the box and {b} on the table. How many {thing} is that?",
                "{name} has {a} {thing} and {other} has {b}. How many {thing} do they have?",
                "{name} found {a} {thing} on Monday and {b} on Tuesday. How many {thing} is that?",
            ),
        ),
        Operation(
            "subtraction",
            _descending_pair,
            lambda a, b: a - b,
            lambda a, b: (a + b, a),
            (
                "What is {a} minus {b}?",
                "Subtract {b} from {a}.",
                "Take {b} away from {a}. What is left?",
                "What is the difference between {a} and {b}?",
                "How much is {a} less {b}?",
                "Calculate {a} minus {b}.",
                "{a} - {b} = ?",
            ),
            ("{a} minus {b} is {r}.", "{a} - {b} = {r}", "The difference is {r}."),
            (
                "{name} had {a} {thing} and gave away {b}. How many {thing} are left?",
                "There were {a} {thing}. Then {b} went away. How many {thing} are left?",
                "{name} has {a} {thing}, {other} only {b}. How many more {thing} does {name} have?",
                "{name} needs {a} {thing} and has {b}. How many {thing} are missing?",
            ),
            lambda a, b: a >= b,
        ),
        Operation(
            "larger number",
            _distinct_pair,
            max,
            lambda a, b: (min(a, b),),
            (
                "Which is larger, {a} or {b}?",
                "What is the larger of {a} and {b}?",
                "Which number is bigger: {a} or {b}?",
            ),
            ("The larger number is {r}.", "The larger one is {r}."),
        ),
        Operation(
            "smaller number",
            _distinct_pair,
            min,
            lambda a, b: (max(a, b),),
            (
                "Which is smaller, {a} or {b}?",
                "What is the smaller of {a} and {b}?",
                "Which number is less: {a} or {b}?",
            ),
            ("The smaller number is {r}.", "The smaller one is {r}."),
        ),
        Operation(
            "doubling",
            _single(1, 40),
            lambda a: 2 * a,
            lambda a: (a, 2 * a + 10),
            (
                "What is double {a}?",
                "What is twice {a}?",
                "Double the number {a}.",
                "What is two times {a}?",
            ),
            ("Double {a} is {r}.", "Twice {a} is {r}."),
        ),
        Operation(
            "next number",
            _single(1, 100),
            lambda a: a + 1,
            lambda a: (a - 1, a),
            (
                "Which number comes after {a}?",
                "What comes next after {a}?",
                "What is one more than {a}?",
            ),
            ("The next number is {r}.",),
        ),
        Operation(
            "previous number",
            _single(1, 100),
            lambda a: a - 1,
            lambda a: (a + 1, a),
            (
                "Which number comes before {a}?",
                "What comes just before {a}?",
                "What is one less than {a}?",
            ),
            ("The number before is {r}.",),
            allows=lambda a: a > 0,
        ),
        Operation(
            "ten more",
            _single(1, 100),
            lambda a: a + 10,
            lambda a: (a, a + 1),
            ("What is ten more than {a}?", "Add ten to {a}.", "Which number is ten above {a}?"),
            ("Ten more is {r}.",),
        ),
        Operation(
            "ten less",
            _single(10, 100),
            lambda a: a - 10,
            lambda a: (a, a - 1),
            ("What is ten less than {a}?", "Take ten from {a}.", "Which number is ten below {a}?"),
            ("Ten less is {r}.",),
            allows=lambda a: a >= 10,
        ),
        Operation(
            "tens digit",
            _single(10, 100),
            lambda a: a // 10,
            lambda a: (a % 10, a),
            ("What is the tens digit of {a}?", "Which digit of {a} stands for the tens?"),
            ("The tens digit is {r}.",),
            allows=lambda a: 10 <= a < 100,
        ),
        Operation(
            "ones digit",
            _single(10, 100),
            lambda a: a % 10,
            lambda a: (a // 10, a),
            ("What is the ones digit of {a}?", "Which digit of {a} stands for the ones?"),
            ("The ones digit is {r}.",),
        ),
    )
}
STORY_NAMES = ("addition", "subtraction")
OPERATION_NAMES = (*OPERATIONS, *STORY_NAMES, *STORY_NAMES)
FRAMES = (
    "The answer is {r}.",
    "It is {r}.",
    "That makes {r}.",
    "{r}",
    "That is {r}.",
    "The result is {r}.",
)
STORY_FRAMES = ("There are {r} {thing}.", "That makes {r} {thing}.", "{r} {thing}.")
NAMES = ("Mia", "Tom", "Ana", "Ben", "Zoe", "Sam", "Lea", "Max", "Ida", "Leo", "Eva", "Jan")

# ---- topics -----------------------------------------------------------------------------------

THING_TOPICS = {
    "fruit": "apples pears plums grapes lemons cherries peaches oranges melons berries figs dates",
    "farm animals": "hens goats cows ducks horses lambs pigs dogs cats rabbits geese bees",
    "school": "pencils books rulers pens chairs desks bags maps erasers crayons notebooks lessons",
    "toys": "marbles dolls balls kites blocks puzzles robots drums cards trains cubes puppets",
    "the kitchen": "cups plates spoons forks bowls eggs cookies cakes jars pans knives pots",
    "the garden": "trees roses tulips seeds leaves bushes stones carrots beans herbs weeds snails",
    "the sea": "boats shells crabs waves fishes ships islands whales nets sails anchors seals",
    "clothes": "shirts hats socks shoes coats gloves scarves belts buttons dresses jackets boots",
}
VERBS = ("counting", "sharing", "buying", "collecting")
THINGS = tuple(thing for things in THING_TOPICS.values() for thing in things.split())
TOPICS: dict[str, tuple[Subtopic, ...]] = {
    "arithmetic": (
        Subtopic("addition", "addition"),
        Subtopic("subtraction", "subtraction"),
        Subtopic("doubling", "doubling"),
        Subtopic("adding ten", "ten more"),
        Subtopic("taking away ten", "ten less"),
        Subtopic("addition in words", "addition", "words"),
        Subtopic("subtraction in words", "subtraction", "words"),
        Subtopic("doubling in words", "doubling", "words"),
        Subtopic("adding ten in words", "ten more", "words"),
        Subtopic("taking away ten in words", "ten less", "words"),
    ),
    "number sense": (
        Subtopic("larger numbers", "larger number"),
        Subtopic("smaller numbers", "smaller number"),
        Subtopic("the next number", "next number"),
        Subtopic("the previous number", "previous number"),
        Subtopic("tens digits", "tens digit"),
        Subtopic("ones digits", "ones digit"),
        Subtopic("larger numbers in words", "larger number", "words"),
        Subtopic("smaller numbers in words", "smaller number", "words"),
        Subtopic("the next number in words", "next number", "words"),
        Subtopic("the previous number in words", "previous number", "words"),
        Subtopic("tens digits in words", "tens digit", "words"),
        Subtopic("ones digits in words", "ones digit", "words"),
    ),
} | {
    topic: tuple(
        Subtopic(f"{VERBS[place % len(VERBS)]} {thing}", thing=thing)
        for place, thing in enumerate(things.split())
    )
    for topic, things in THING_TOPICS.items()
}
SUBTOPICS = tuple(subtopic for subtopics in TOPICS.values() for subtopic in subtopics)

# ---- numbers as words -------------------------------------------------------------------------

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """A number below one hundred in English."""
    if number < 20:
        return ONES[number]
    tens, ones = TENS[number // 10 - 2], number % 10
    return f"{tens}-{ONES[ones]}" if ones else tens


def _to_number(text: str) -> int:
    return int(text) if text.isdigit() else number_words()[text.lower()]


@cache
def number_words() -> dict[str, int]:
    """Zero to ninety-nine, by their English words."""
    return {in_words(number): number for number in range(100)}


@cache
def _patterns(operation: Operation) -> list[re.Pattern[str]]:
    return [_pattern(phrasing) for phrasing in operation.plain + operation.stories]


def _pattern(phrasing: str) -> re.Pattern[str]:
    """A phrasing as a regular expression; what a placeholder matches, it matches again."""
    words = "|".join(sorted(number_words(), key=len, reverse=True))
    kinds = {"a": rf"\d+|{words}", "b": rf"\d+|{words}", "thing": "[a-z]+"}
    pattern = re.escape(phrasing).replace(r"\{", "{").replace(r"\}", "}")
    for key in re.findall(r"{(\w+)}", phrasing):
        pattern = pattern.replace(f"{{{key}}}", f"(?P<{key}>{kinds.get(key, '[A-Z][a-z]+')})", 1)
        pattern = pattern.replace(f"{{{key}}}", f"(?P={key})")
    return re.compile(pattern, re.IGNORECASE)


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


# ---- tasks and their wrappers -----------------------------------------------------------------

Message = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """An answer as it stands in a conversation, and whether it is right."""

    text: str
    is_right: bool


@dataclass(frozen=True)
class Example:
    """A training conversation.

    `answers` stand in it in this order and can be graded; right ones are worth predicting wherever
    they stand. The assistant's turn is learnt only if it is `spoken`. The numbers of `free` turns
    are anybody's choice, not results.
    """

    messages: tuple[Message, ...]
    answers: tuple[Answer, ...] = ()
    is_spoken: bool = True
    is_free: bool = False


@dataclass(frozen=True)
class HeldOutWrappers:
    """Wrappers that no training example uses: the evaluation's, and those of the recipes."""

    answer: tuple[str, ...] = (
        "{question}",
        "Answer the user's question: {question}",
        "Could you work this out for me? {question}",
        "A pupil asks: {question}\nWhat do you tell them?",
    )
    judge: tuple[str, ...] = (
        "Compare two responses for: {question}\nA: {response_a}\nB: {response_b}\n"
        "Which is more helpful and correct?",
        "A pupil was asked: {question}\nHere are two attempts.\nA: {response_a}\nB: {response_b}\n"
        "Decide which attempt deserves the mark.",
    )
    subtopics: tuple[str, ...] = (
        "Produce {n} related subtopics for the topic below. Separate the subtopics by a comma. "
        "Do not number or describe them, and write nothing else.\nTopic: {topic}",
        "We are planning a course on {topic}. Which {n} subtopics should it cover? The list must "
        "be without numbers and descriptions, separated by commas, with no other text.",
    )
    questions: tuple[str, ...] = (
        "Produce {n} questions that could be asked about the topic below. Put every question on a "
        "new line. Do not number them, and write nothing else.\nTopic: {subtopic}",
        "We are planning a lesson on {subtopic}. Which {n} questions should the pupils answer? The "
        "list must be without numbers, separated by newlines, with no other text.",
    )


HELD_OUT = HeldOutWrappers()


@dataclass(frozen=True)
class Lesson:
    """Part of a curriculum: how many conversations, of which tasks, how many wrong answers."""

    examples: int
    answers: int
    grades: int
    judgements: int
    subtopics: int
    questions: int
    two_answers: int
    wrong_share: float
    bare_share: float = 0.33


def lesson_examples(lesson: Lesson, seed: int) -> Iterator[Example]:
    """The lesson's conversations, all of the train split; its task counts are relative weights."""
    rng = random.Random(f"examples/{seed}/{lesson}")
    makers: tuple[Callable[[], Example], ...] = (
        lambda: answer_example(rng, lesson.wrong_share, lesson.bare_share),
        lambda: graded_example(rng, lesson.bare_share),
        lambda: judge_example(rng),
        lambda: subtopics_example(rng),
        lambda: questions_example(rng),
        lambda: two_answers_example(rng, lesson.wrong_share),
    )
    weights = (
        lesson.answers, lesson.grades, lesson.judgements,
        lesson.subtopics, lesson.questions, lesson.two_answers,
    )  # fmt: skip
    for _ in range(lesson.examples):
        yield rng.choices(makers, weights)[0]()


def answer_example(rng: random.Random, wrong_share: float, bare_share: float) -> Example:
    """A wrapped question and an answer that is wrong with the given probability."""
    question = draw_question(rng, "train")
    answer = draw_answer(question, rng, wrong_share)
    return _conversation(rng, wrap_question(question, rng, bare_share), answer.text)


def graded_example(rng: random.Random, bare_share: float) -> Example:
    """A wrapped question with an answer to grade, right or wrong; not the model's own words."""
    question = draw_question(rng, "train")
    answer = draw_answer(question, rng, wrong_share=0.5, far_share=0.25)
    ask = wrap_question(question, rng, bare_share)
    return replace(_conversation(rng, ask, answer.text, (answer,)), is_spoken=False)


def draw_answer(
    question: Question, rng: random.Random, wrong_share: float, far_share: float = 0.0
) -> Answer:
    """A phrased answer, wrong with the given probability; of the wrong ones, some are far off."""
    result = question.answer
    if rng.random() < wrong_share:
        result = rng.randrange(100) if rng.random() < far_share else slip(question, rng)
    return Answer(phrase_answer(question, result, rng), result == question.answer)


def wrap_question(question: Question, rng: random.Random, bare_share: float = 0.33) -> str:
    """The question inside a training wrapper, or bare."""
    if rng.random() < bare_share:
        return question.text
    before = rng.choice((*ASKS, lambda: _filler(rng) + rng.choice((":", ".", ":\n"))))
    before = before if isinstance(before, str) else before()
    after = rng.choice((*CLOSES, "", "", "", "", " " + _capitalised(_filler(rng)) + "."))
    return f"{_capitalised(before)}{rng.choice(GAPS)}{question.text}{after}".strip()


def judge_example(rng: random.Random) -> Example:
    """Two answers and the verdict; one pair in twenty is equally good, and judged at random."""
    question = draw_question(rng, "train")
    is_tie = rng.random() < 0.05
    wrong = rng.choice((0.0, 1.0))
    winner = rng.choice("AB")
    shares = (wrong, wrong) if is_tie else (0.0, 1.0) if winner == "A" else (1.0, 0.0)
    first, second = (draw_answer(question, rng, share, far_share=0.15) for share in shares)
    mark = rng.choice(
        ("{}: ", "{}: ", "{}: ", "Response {}: ", "Answer {}: ", "[{}] ", "{}) ", "{}:\n")
    )
    opening = rng.choice((*JUDGE_OPENINGS, _capitalised(_filler(rng)) + ":"))
    closing = rng.choice((*JUDGE_CLOSINGS, "", _capitalised(_filler(rng)) + rng.choice("?.")))
    lines = (
        f"{opening} {question.text}".strip(),
        mark.format("A") + first.text,
        mark.format("B") + second.text,
        closing,
    )
    text = rng.choice(("\n", "\n", "\n", "\n\n")).join(line for line in lines if line)
    if rng.random() < 0.15:
        text += '\nReply with {"winner": "A"} or {"winner": "B"}.'
    return _conversation(rng, text, verdict(winner), (first, second))


def verdict(winner: str) -> str:
    """What the judge answers, exactly as `json.dumps` writes it."""
    return f'{{"winner": "{winner}"}}'


def subtopics_example(rng: random.Random) -> Example:
    """A topic and n of its subtopics, comma-separated."""
    topic = rng.choice(tuple(TOPICS))
    n = rng.randint(1, 10)
    names = [subtopic.name for subtopic in rng.sample(TOPICS[topic], n)]
    return _conversation(rng, _wrap_list(rng, SUBTOPIC_ASKS, n, topic=topic), ", ".join(names))


def questions_example(rng: random.Random) -> Example:
    """A subtopic and n questions about it, one a line."""
    topic = rng.choice(tuple(TOPICS))
    subtopic = rng.choice(TOPICS[topic])
    n = rng.choices(range(1, 11), weights=[3, 4, 4, 4, 4, 3, 1, 1, 1, 1])[0]
    questions: dict[str, None] = {}
    while len(questions) < n:
        questions[draw_question(rng, "train", subtopic).text] = None
    text = _wrap_list(rng, QUESTION_ASKS, n, subtopic=subtopic.name, topic=topic)
    return replace(_conversation(rng, text, "\n".join(questions)), is_free=True)


def two_answers_example(rng: random.Random, wrong_share: float) -> Example:
    """One completion that holds two responses, `RESPONSE A: ... RESPONSE B: ...`."""
    question = draw_question(rng, "train")
    first, second = (draw_answer(question, rng, wrong_share) for _ in "AB")
    ask = rng.choice(TWO_ANSWERS_ASKS).format(question=question.text)
    if rng.random() < 0.3:
        ask = f"{_capitalised(_filler(rng))}. {ask}"
    return _conversation(rng, ask, f"RESPONSE A: {first.text}\nRESPONSE B: {second.text}")


def _conversation(
    rng: random.Random, ask: str, reply: str, answers: tuple[Answer, ...] = ()
) -> Example:
    messages = [{"role": "user", "content": ask}, {"role": "assistant", "content": reply}]
    if rng.random() < 0.15:
        system = rng.choice((*SYSTEMS, _capitalised(_filler(rng)) + "."))
        messages.insert(0, {"role": "system", "content": system})
    return Example(tuple(messages), answers)


def _wrap_list(rng: random.Random, asks: tuple[str, ...], n: int, **names: str) -> str:
    shown = ONES[n] if rng.random() < 0.25 else str(n)
    ask = rng.choice(asks).format(n=shown, **names)
    rules = rng.sample(LIST_RULES, rng.randint(0, 4))
    if rng.random() < 0.5:
        rules.append(_capitalised(_filler(rng)) + ".")
        rng.shuffle(rules)
    if rng.random() < 0.3:
        return f"{_capitalised(_filler(rng))}{rng.choice('.:')} {' '.join(rules)}\n{ask}".strip()
    return f"{ask}{rng.choice(GAPS)}{' '.join(rules)}".strip()


def _filler(rng: random.Random) -> str:
    """A few words that say nothing, and letters that are no word: what is unseen is nothing new."""
    words = rng.choices(FILLER.split(), k=rng.randint(1, 7))
    if rng.random() < 0.3:
        letters = "".join(rng.choices("abcdefghilmnoprstuvwy", k=rng.randint(2, 7)))
        words[rng.randrange(len(words))] = letters
    return " ".join(words)


GAPS = (" ", " ", "\n")
ASKS = (
    "Question:", "Q:", "Please answer:", "Answer this:", "Solve this:", "Here is a question:",
    "Please help me.", "Reply to the following question:", "I have a question.", "Problem:",
    "Answer the following:", "Respond to this question:", "Think about this:", "Quick question:",
    "Someone asks you:", "Find the answer:", "Give the answer to this question:", "Hello!",
)  # fmt: skip
CLOSES = (
    " Answer briefly.", "\nAnswer:", " Please give only the result.", " Thank you.", "\nA:",
    " Write one sentence.", " Keep it short.", "\nYour answer:", " Use digits.",
)  # fmt: skip
JUDGE_OPENINGS = (
    "", "Question:", "Which response is better? Question:", "Two people answered this:",
    "Judge the two responses. Question:", "Pick the correct response for the question:", "User:",
    "You see one question and two responses.\nQuestion:", "Evaluate these answers.\nPrompt:",
)  # fmt: skip
JUDGE_CLOSINGS = (
    "Which one is correct?", "Which response is better?", "Which answer is right?", "Who is right?",
    "Pick the better answer.", "Choose the winner.", "Choose A or B.", "Which is better?",
    "Verdict:", "Name the winner as JSON.", "Which do you prefer?", "Say which is more accurate.",
)  # fmt: skip
SUBTOPIC_ASKS = (
    "Give me {n} subtopics of {topic}.", "List {n} subtopics for the topic {topic}.",
    "Topic: {topic}\nNumber of subtopics: {n}", "Write {n} subtopics about {topic}.",
    "Name {n} subtopics that belong to {topic}.", "Think of {n} smaller topics within {topic}.",
    "Break {topic} down into {n} subtopics.", "For {topic}, suggest {n} related subtopics.",
    "What are {n} subtopics of {topic}?", "Generate {n} subtopics. The topic is: {topic}.",
    "The topic is {topic}. I need {n} subtopics.", "Split the topic {topic} into {n} subtopics.",
    "Subtopics ({n}) for {topic}:", "Generate a list of {n} subtopics related to {topic}.",
)  # fmt: skip
QUESTION_ASKS = (
    "Write {n} questions about {subtopic}.", "Give me {n} questions on {subtopic}.",
    "Topic: {subtopic}\nNumber of questions: {n}", "Ask {n} questions about {subtopic}.",
    "Generate {n} questions. The topic is: {subtopic}.", "List {n} questions for {subtopic}.",
    "I need {n} questions that deal with {subtopic}.", "Think of {n} questions about {subtopic}.",
    "For the subtopic {subtopic} of {topic}, write {n} questions.",
    "Make {n} exercises on {subtopic}.",
    "Subtopic: {subtopic}\nQuestions: {n}", "What are {n} good questions about {subtopic}?",
    "The topic is {topic}, the subtopic is {subtopic}. Write {n} questions.",
    "Questions ({n}) about {subtopic}:",
)  # fmt: skip
LIST_RULES = (
    "Separate them with commas.", "No numbers.", "No numbering.", "Do not describe them.",
    "Write only the list.", "There is no other text.", "One per line.", "Each on its own line.",
    "The list has no numbers.", "Do not explain.", "Nothing else.", "Keep it short.",
    "Separated by newlines.", "Separated by a comma.", "Without descriptions.", "Without numbers.",
)  # fmt: skip
TWO_ANSWERS_ASKS = (
    "Give two responses to this question: {question}\nWrite RESPONSE A: ... RESPONSE B: ...",
    "Question: {question}\nWrite two different responses as RESPONSE A: ... RESPONSE B: ...",
    "Generate 2 responses to the question. The question is: {question}\nThe format must be: "
    "RESPONSE A: the first response RESPONSE B: the second response",
    "Answer twice, as RESPONSE A: and RESPONSE B:. {question}",
)
SYSTEMS = (
    "You are a helpful assistant.", "You are good with numbers.", "You are a careful teacher.",
    "Answer in one short sentence.", "You are a judge.", "Be brief.",
)  # fmt: skip
FILLER = (
    "the a an of to in for with on at from by about as and or but if so then this that these "
    "it we you they I he she user reader person student pupil friend model assistant please "
    "kindly could would can should must may will work out find tell say write read look think "
    "use make take give need want help answer reply respond question prompt task text request "
    "message input topic list line word comma response output result problem exercise lesson "
    "course book page data set example short long good better best careful correct helpful "
    "clear simple new next below above following given each every some any all only other "
    "another same different more most well now here there today again first last very just "
    "not no do does did is are was be been have has how what which who when where why compare "
    "cover plan produce create consider"
)
