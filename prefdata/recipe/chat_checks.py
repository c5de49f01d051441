"""What a recipe does with chats: which columns it reads as such, and where it would flatten one."""

from collections.abc import Iterator

from prefdata.recipe.contract import At, Column, Problem, no_chat, path_of
from prefdata.recipe.prompts import Prompt, compile_prompt
from prefdata.recipe.schema import Recipe


def chats_read(recipe: Recipe) -> frozenset[str]:
    """Columns that are sent as chats, should their values be chats."""
    names = {recipe.output_projection.prompt_field}
    for column in recipe.columns:
        bare = compile_prompt(column.templates.get("prompt", "")).bare
        names |= {bare} if bare is not None else set()
        names |= {one.column for one in column.named if one.key.endswith(".chat")}
    return frozenset(names)


def check_chats(recipe: Recipe, chats: frozenset[str], others: frozenset[str]) -> list[Problem]:
    """Every place where a chat would be flattened, or something else is taken for a chat."""
    problems: list[Problem] = []
    for number, column in enumerate(recipe.columns):
        problems += _check_column(column, ("columns", number), chats, others)
    for number, model in enumerate(recipe.models):
        if model.system_prompt is not None:
            at: At = ("models", number, "system_prompt")
            problems += _check_template(compile_prompt(model.system_prompt), at, chats)
    return problems


def _check_column(
    column: Column, at: At, chats: frozenset[str], others: frozenset[str]
) -> Iterator[Problem]:
    for key, source in column.templates.items():
        prompt = compile_prompt(source)
        if key != "prompt" or prompt.bare not in chats:
            yield from _check_template(prompt, (*at, *path_of(key)), chats)
    for key, name, holds in column.named:
        if holds == "chat" and name in others:
            yield Problem((*at, *path_of(key)), no_chat(name))
        elif holds not in ("chat", "any") and name in chats:
            yield Problem(
                (*at, *path_of(key)),
                f"column {name!r} contains chats, but a text is needed; make a text from one with "
                f"an expression column, say {{{{ {name}[-1].content }}}}",
            )


def _check_template(prompt: Prompt, at: At, chats: frozenset[str]) -> Iterator[Problem]:
    for name in sorted(prompt.printed & chats):
        yield Problem(
            at,
            f"column {name!r} holds chats, and this template would print one as JSON into a single "
            f"turn; to send it turn by turn write 'messages: {name}', or '{{chat: {name}}}' among "
            f"other turns of 'messages'; to print it as a text write {{{{ {name} | transcript }}}}",
        )
