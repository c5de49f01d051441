"""`llm_judge` with a tournament: many texts of a row compared, verdicts become their scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_uppercase
from typing import Any

import orjson
import pyarrow as pa

from prefdata.errors import RowError
from prefdata.fingerprint import sampling_seed
from prefdata.inference import Completion
from prefdata.recipe.chats import LEADING, Chat
from prefdata.recipe.judges import LlmJudge
from prefdata.recipe.questions import ASKED, Question, question_of
from prefdata.recipe.tournament import MOST_LISTED, Tournament, ranking_schema
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import ID, TOURNAMENT_META, Row, is_blank
from prefdata.stages.asked import Asked, blinded
from prefdata.stages.asking import Asker, Said, Stage, Tools, ask_until
from prefdata.stages.matches import Pair, pair_number, schedule
from prefdata.stages.scores import as_column, readable_texts, scorable, score_fields
from prefdata.stages.strength import WON, bradley_terry, panel_says, win_rates, word_of
from prefdata.stages.text import reader, spelled

Read = Callable[[Completion], Row]
Verdicts = list[tuple[float, list[str]]]
"""Of each judge: what the first of a pair has won, and the answers as JSON."""


def tournament_fields(column: LlmJudge) -> list[pa.Field]:
    """The scores, and the comparisons that made them."""
    return [*score_fields(column), pa.field(column.name + META_SUFFIX, TOURNAMENT_META)]


def tournament(column: LlmJudge, tools: Tools) -> Stage:
    """Rounds of comparisons; every request of a round and a judge goes out in one call."""
    how = column.tournament or Tournament(type="round_robin")
    question = question_of(column)
    asked = Asked(column, tools) if ASKED in question.columns else None
    is_list = how.type == "listwise"
    judges = [Asker(tools, alias, column.name, column.output_format) for alias in column.aliases]
    read = reader(column.output_format)
    names = question.columns.union(*(one.columns for one in judges)) - column.inserted

    async def stage(row: Row) -> Row:
        texts, players = readable_texts(column, row), scorable(column, row)
        shown = blinded(row, names)
        if asked is not None:
            chats = asked.chats(row)
            shown[ASKED] = _shared([chats[n] for n in players])
        bench = _Bench(column, tools, judges, question, read, row[ID], shown, texts)
        anchor = None
        if how.reference is not None:
            anchor = len(texts)
            texts.append(_reference(row, how.reference))
        played: dict[Pair, Verdicts] = {}
        if is_list:
            played = await bench.rank(players)
        else:
            rounds = schedule(how, bench.drawn(players), anchor)
            pairs = next(rounds, None)
            while pairs is not None:
                made = await bench.compare(pairs)
                played |= made
                results = {pair: _won(column, verdicts) for pair, verdicts in made.items()}
                try:
                    pairs = rounds.send(results)
                except StopIteration:
                    pairs = None
        return _made(column, bench, played, anchor)

    return stage


@dataclass
class _Bench:
    """The judges of one row, and the tokens they have used."""

    column: LlmJudge
    tools: Tools
    judges: Sequence[Asker]
    question: Question
    read: Read
    row_id: str
    shown: Row
    texts: list[str]
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def drawn(self, players: Sequence[int]) -> list[int]:
        """The order that decides between equals, drawn by row and seed."""
        return sorted(players, key=lambda one: self._draw("order", one))

    async def compare(self, pairs: Sequence[Pair]) -> dict[Pair, Verdicts]:
        """Verdicts of every judge about every pair; equal texts tie, and nobody is asked."""
        found: dict[Pair, Verdicts] = {pair: [] for pair in pairs}
        told = [(a, b) for a, b in pairs if self.texts[a] != self.texts[b]]
        orders = [order for pair in told for order in self._orders(pair)]
        numbers = [2 * pair_number((min(o), max(o))) + (o[0] > o[1]) for o in orders]
        key = self.column.winner_field
        for judge in self.judges:
            rows = [
                self.shown | {"response_a": self.texts[a], "response_b": self.texts[b]}
                for a, b in orders
            ]
            chats = [judge.chat(self.question, row) for row in rows]
            said = await self._ask(judge, chats, self.read, numbers)
            values: dict[Pair, list[tuple[float, str]]] = {pair: [] for pair in told}
            for order, one in zip(orders, said, strict=True):
                won = WON.get(word_of(one.value, key), 0.5)
                pair = min(order), max(order)
                answer = spelled(one.completion, one.value, self.column.output_format)
                won = won if order == pair else 1 - won
                values[pair].append((won, orjson.dumps(answer).decode()))
            for pair, verdicts in values.items():
                agreed = {won for won, _ in verdicts}
                won = agreed.pop() if len(agreed) == 1 else 0.5
                found[pair].append((won, [text for _, text in verdicts]))
        return found

    async def rank(self, players: Sequence[int]) -> dict[Pair, Verdicts]:
        """What the ranking of every judge says of every pair, A being what it was shown first."""
        if len(players) > MOST_LISTED:
            detail = f"{len(players)} texts are too many for one ranking of {MOST_LISTED}"
            raise RowError("too_many_to_rank", detail)
        found: dict[Pair, Verdicts] = {pair: [] for pair in combinations(sorted(players), 2)}
        for judge in self.judges if found else ():
            order = sorted(players, key=lambda one: self._draw("list", judge.model.alias, one))
            letters = dict(zip(ascii_uppercase, order, strict=False))
            replies = [{"letter": k, "text": self.texts[n]} for k, n in letters.items()]
            schema = ranking_schema(len(order))
            asker = Asker(self.tools, judge.model.alias, self.column.name, schema)
            chat = asker.chat(self.question, self.shown | {"replies": replies})
            [said] = await self._ask(asker, [chat], reader(schema), [0])
            place = {letters[k]: n for n, k in enumerate(said.value["ranking"].split(" > "))}
            for one, other in found:
                won = float(place[one] < place[other])
                is_first = order.index(one) < order.index(other)
                word = "A" if is_first == bool(won) else "B"
                found[one, other].append((won, [orjson.dumps({"winner": word}).decode()]))
        return found

    async def _ask(
        self,
        judge: Asker,
        chats: Sequence[Chat],
        read: Read,
        numbers: Sequence[int],
    ) -> list[Said[Row]]:
        said: list[Said[Row]] = await ask_until(
            judge, self.row_id, chats, read, self.column.max_retries, numbers=numbers
        )
        self.prompt_tokens += sum(one.prompt_tokens for one in said)
        self.completion_tokens += sum(one.completion_tokens for one in said)
        return said

    def _orders(self, pair: Pair) -> list[tuple[int, int]]:
        turned = pair[1], pair[0]
        if self.column.wants_both_orders:
            return [pair, turned]
        return [turned if self._draw("first", pair_number(pair)) % 2 else pair]

    def _draw(self, *names: str | int) -> int:
        return sampling_seed(self.tools.seed, self.row_id, self.column.name, *names)


def _shared(chats: Sequence[Chat | None]) -> list[Any]:
    """What the texts were asked; of different chats what the user and the assistant said."""
    known = [chat for chat in chats if chat is not None]
    if not known:
        return []
    told = known[0]
    if any(chat != told for chat in known):
        told = tuple(message for message in told if message["role"] not in LEADING)
    return [*told]


def _reference(row: Row, name: str) -> str:
    """The text that all others meet."""
    text: str | None = row[name]
    if text is None or (isinstance(text, str) and is_blank(text)):
        raise RowError("reference", f"the reference {name!r} is empty or blank, so no text can be compared with it")  # fmt: skip  # noqa: E501
    return text


def _won(column: LlmJudge, verdicts: Verdicts) -> float:
    return panel_says([won for won, _ in verdicts], column.says) if verdicts else 0.5


def _made(
    column: LlmJudge, bench: _Bench, played: Mapping[Pair, Verdicts], anchor: int | None
) -> Row:
    """The columns of a row; a text that was compared with none has no score."""
    results = [(*pair, _won(column, verdicts)) for pair, verdicts in played.items()]
    if column.tournament is not None and column.tournament.score == "win_rate":
        found = win_rates(len(bench.texts), results)
    else:
        found = bradley_terry(len(bench.texts), results, anchor)
    answered = {place for pair in played for place in pair}
    kept = range(len(bench.texts) if anchor is None else anchor)
    comparisons = [
        {
            "first": first,
            "second": second,
            "won": won,
            "judges": [one for one, _ in played[first, second]],
            "verdicts": [texts for _, texts in played[first, second]],
        }
        for first, second, won in results
    ]
    meta = {
        "errors": [found.errors[n] if n in answered else None for n in kept],
        "comparisons": comparisons,
        "prompt_tokens": bench.prompt_tokens,
        "completion_tokens": bench.completion_tokens,
    }
    scores = [found.scores[n] if n in answered else None for n in kept]
    return {column.name: as_column(column, scores), column.name + META_SUFFIX: meta}
