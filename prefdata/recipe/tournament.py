"""How a judge compares many texts of a prompt: who meets whom, and what becomes of the verdicts."""

from itertools import permutations
from math import ceil, log2
from string import ascii_uppercase
from typing import Any, Literal

from pydantic import model_validator

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.shipped import shipped
from prefdata.recipe.values import Filled, Frozen, Positive

MOST_LISTED = 5
"""Texts that a model ranks in one answer; with more, what stands in the middle is overlooked
(Lost in the Middle, arXiv 2307.03172).
"""
Panel = Literal["majority", "mean", "minimum"]


class Tournament(Frozen):
    """Which texts of a prompt are compared, and the score that their verdicts make."""

    type: Literal["round_robin", "swiss", "knockout", "against", "listwise"]
    """`round_robin`: each with each. `swiss`: in every round texts with about equally many wins, no
    two of them twice. `knockout`: the better of two goes on. `against`: each with `reference`
    alone, as in Arena-Hard (arXiv 2406.11939). `listwise`: one request ranks them all, five at
    most, shown in an order drawn by row.
    """
    rounds: Positive | None = None
    """`swiss`: how many; if left out, the binary logarithm of the number of texts, rounded up."""
    reference: Filled | None = None
    """`against`: the column with the text that all others meet."""
    score: Literal["bradley_terry", "win_rate"] = "bradley_terry"
    """A Bradley-Terry strength, in log-odds of winning, or the share of comparisons won, a tie
    counting half.
    """

    @model_validator(mode="after")
    def _keys_of_the_type(self) -> "Tournament":
        for key, owner in (("rounds", "swiss"), ("reference", "against")):
            if getattr(self, key) is not None and self.type != owner:
                raise ValueError(f"only type: {owner} reads '{key}'; remove it")
        if self.type == "against" and self.reference is None:
            raise ValueError("'against' compares with a reference; name its column: reference: …")
        return self

    def rounds_of(self, texts: int) -> int:
        """Rounds of a swiss tournament: at most as many as there are opponents."""
        wanted = self.rounds or ceil(log2(max(texts, 2)))
        return min(wanted, texts - 1 + texts % 2) if texts > 1 else 0

    def comparisons(self, texts: int) -> int:
        """Pairs of texts that are judged, if no two are equal and none failed."""
        match self.type:
            case "round_robin":
                return texts * (texts - 1) // 2
            case "swiss":
                return self.rounds_of(texts) * (texts // 2)
            case "knockout":
                return max(0, texts - 1)
            case "against":
                return texts
            case "listwise":
                return int(texts > 1)


def winner_schema() -> dict[str, Any]:
    """What a judge of two texts answers where the recipe says nothing else."""
    winner = {"type": "string", "enum": ["A", "B", "tie"]}
    return {"type": "object", "properties": {"winner": winner}, "required": ["winner"]}


def ranking_schema(texts: int) -> dict[str, Any]:
    """What a judge of a list answers: one of all orders of its letters, the best first."""
    orders = [" > ".join(order) for order in permutations(ascii_uppercase[:texts])]
    ranking = {"type": "string", "enum": orders}
    return {
        "type": "object", "properties": {"ranking": ranking}, "required": ["ranking"],
        "additionalProperties": False,
    }  # fmt: skip


def judge_names() -> list[str]:
    """The prompts for judges that ship; a text that has shipped never changes under its name."""
    return sorted(file.stem for file in shipped("judges").glob("*.md"))


def read_judge(name: str, kinds: tuple[str, ...]) -> str:
    """The prompt of a shipped judge.

    Args:
        name: such as `pairwise-v1`.
        kinds: what may stand before its version.

    Raises:
        PrefdataError: there is none, or it is for another kind of judging.
    """
    fitting = [known for known in judge_names() if known.rpartition("-")[0] in kinds]
    if name not in fitting:
        raise PrefdataError(f"there is no judge {name!r} of this kind; {suggest(name, fitting)}")
    return shipped(f"judges/{name}.md").read_text(encoding="utf-8").removesuffix("\n")
