"""`prefdata export`: a run's pairs as files for one trainer, whole or not at all."""

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import orjson

from prefdata.engines import open_chat_template
from prefdata.errors import PrefdataError, RowError, Say
from prefdata.export.configurations import Place
from prefdata.export.conversation import Conversation, read_conversation
from prefdata.export.formats import Format, Lines, Record, Shape, find_format
from prefdata.export.survey import Survey, Wanted, answer_key, survey
from prefdata.export.thoughts import Way, carry, choose_way
from prefdata.pairs.files import SPLITS, pairs_in_order
from prefdata.pairs.pair import SIDES
from prefdata.recipe.reads import answering_aliases
from prefdata.recipe.schema import Model, Recipe
from prefdata.run.finished import FinishedRun, find_policy, open_run
from prefdata.storage.disk import (
    disk_errors,
    hold,
    make_folder,
    publish,
    sweep_beside,
    temporary_name,
)
from prefdata.storage.record import identify_pairs

if TYPE_CHECKING:  # torch, only when needed
    from prefdata.engines.chat_template import ChatTemplate

MANIFEST = "export.json"
LEFT_OUT = "left_out.jsonl"
OpenTemplate = Callable[[], "ChatTemplate"]
"""Of the model to be trained; PrefdataError where nobody says which that is."""


@dataclass(frozen=True)
class ExportOptions:
    """What a user may ask of an export.

    Attributes:
        test_size: prompts in test, a count or a fraction; None keeps the run's own split, or
            takes the format's share where the run has none.
        max_tokens: length at which the trainer will cut prompt and answer together.
        tokenizer: the model to be trained, or a folder or Hub id of it; the one that wrote the
            texts by default.
        drop_too_long: leave out what would be cut, instead of reporting how much that is.
        last_message_only: cut prompts to their last message (`nemo_customizer`).
        reasoning: whether the thoughts are exported; None does what the run does.
        may_be_text: whether prompts and answers may leave as rendered texts, where the chat
            template would drop the thoughts.
    """

    test_size: int | float | None = None
    max_tokens: int | None = None
    tokenizer: str | Model | None = None
    drop_too_long: bool = False
    last_message_only: bool = False
    reasoning: Literal["drop", "keep"] | None = None
    may_be_text: bool = False

    def __post_init__(self) -> None:
        share, most = self.test_size, self.max_tokens
        is_count = type(share) is int and share >= 0
        if not (share is None or is_count or (type(share) is float and 0 <= share < 1)):
            raise PrefdataError(
                f"test_size is {share!r}; give a number of prompts, or a fraction below 1"
            )
        if most is not None and (type(most) is not int or most < 1):
            raise PrefdataError(f"max_tokens is {most!r}; give a whole number of at least 1")
        if self.reasoning not in (None, "drop", "keep"):
            raise PrefdataError(f"reasoning is {self.reasoning!r}; give 'drop' or 'keep'")


@dataclass(frozen=True)
class Export:
    """Files that are written.

    Attributes:
        train: the file with the pairs to train on.
        test: the file with the held-out pairs; None where there are none.
        left_out: pairs that were not exported, by reason; they are in left_out.jsonl.
        lines_left_out: of a format that has an answer a line, by reason.
        reasoning: in which way the thoughts were exported; None where they were left out.
    """

    format: str
    folder: Path
    train: Path
    test: Path | None
    lines: dict[str, int]
    left_out: dict[str, int]
    lines_left_out: dict[str, int]
    configuration: dict[str, str]
    lengths: dict[str, int] | None
    reasoning: Way | None = None


def export_run(
    run: Path,
    name: str | Lines,
    options: ExportOptions,
    out: Path | None = None,
    *,
    say: Say = print,
) -> Export:
    """Write a run's pairs as a trainer wants them.

    `name`: of the format; or a function of the user's from a pair to lines, as an object, as
    `package.module:name` or as the name of an entry point. `out`: where to; `exports/<name>` in the
    run by default. What lies there is replaced. `say`: is called with what is left out, and what
    would be cut.

    Raises:
        PrefdataError: no such format or run, or no pair that the format can hold.
    """
    name, form = find_format(name)
    finished, folder = open_run(run), out or run / "exports" / name
    _check_place(folder)
    open_template = cache(lambda: open_chat_template(_tokenizer(finished, options)))
    wanted = _wanted(finished, name, form, options, open_template)
    is_inside = folder.resolve().is_relative_to(run.resolve())
    sweep_beside(folder)
    with disk_errors(folder), hold(run) if is_inside else nullcontext():
        way = _choose_way(finished, name, form, options, open_template, say)
        if way is not None:
            carried = partial(carry, template=open_template(), way=way)
            wanted = replace(wanted, shape=replace(wanted.shape, carry=carried))
        found = survey(run / "pairs", form, wanted)
        export = _write(finished, name, form, folder, found, way)
    _tell(export, say)
    for told in (_tell_of_arguments(finished.recipe, form), _tell_of_template(finished.recipe)):
        if told is not None:
            say(told)
    return export


def _check_place(folder: Path) -> None:
    """Replace what an export has made, and nothing else."""
    found = {f.relative_to(folder).as_posix() for f in folder.rglob("*")} if folder.is_dir() else ()
    if strange := sorted(set(found) - _files_of(folder / MANIFEST, found)):
        raise PrefdataError(
            f"{folder}: the folder contains files that are not part of an export ({strange[0]}) "
            "and would be replaced; name a new folder with --out"
        )


def _files_of(manifest: Path, found: Collection[str]) -> set[str]:
    """Files that an export has made, by what it says of itself."""
    try:
        told = orjson.loads(manifest.read_bytes())
        return set(told.get("files", found))  # the first exports did not say
    except (OSError, ValueError, AttributeError, TypeError):
        return set()


def _wanted(
    run: FinishedRun, name: str, form: Format, options: ExportOptions, open_template: OpenTemplate
) -> Wanted:
    if options.drop_too_long and options.max_tokens is None:
        raise PrefdataError(
            "--drop-too-long requires --max-tokens, the length above which pairs are left out"
        )
    if options.last_message_only and name != "nemo_customizer":
        raise PrefdataError(
            "--last-message-only is an option of --format nemo_customizer only; remove it"
        )
    shape = Shape(
        last_message_only=options.last_message_only, arguments=_only(_arguments(run.recipe))
    )
    check = partial(_check_calls, cache(partial(_known_template, open_template)))
    # formats with arguments of the chat template are those that the trainer renders with it
    wanted = Wanted(
        options.test_size,
        run.seed,
        shape,
        is_turn=run.recipe is not None and run.recipe.expands_turns,
        check=check if form.has_arguments else None,
    )
    if options.tokenizer is None and options.max_tokens is None:
        return wanted
    template = open_template()
    return replace(
        wanted,
        shape=replace(shape, render=template.render),
        special=template.special,
        measure=partial(_measure, template),
        max_tokens=options.max_tokens,
        drop_too_long=options.drop_too_long,
    )


def _known_template(open_template: OpenTemplate) -> "ChatTemplate | None":
    """The chat template of the model to be trained; None where nobody says which."""
    try:
        return open_template()
    except PrefdataError:
        return None


def _check_calls(find: Callable[[], "ChatTemplate | None"], pair: Conversation) -> None:
    """Make sure that the trainer's rendering writes calls as they were written.

    Raises:
        RowError: it would put their arguments in quotes; objects in a table lend each other keys.
    """
    if pair.has_calls and (template := find()) is not None and template.quotes_arguments:
        raise RowError(
            "tools",
            "the chat template of the model prints the arguments of a call as JSON, so the trainer "
            "would put those of this file, which are texts, in quotes",
        )


def _arguments(recipe: Recipe | None) -> list[dict[str, Any]]:
    """What the chat templates of the models that wrote answers were given, each of it once."""
    aliases = sorted(answering_aliases(recipe)) if recipe else []
    found: list[dict[str, Any]] = []
    for alias in aliases:
        told = recipe.model(alias).chat_template_kwargs if recipe else {}
        found += [] if told in found else [told]
    return found


def _only(told: list[dict[str, Any]]) -> dict[str, Any] | None:
    return told[0] if len(told) == 1 and told[0] else None


def _tell_of_arguments(recipe: Recipe | None, form: Format) -> str | None:
    """What of chat_template_kwargs the files do not carry."""
    told = _arguments(recipe)
    if len(told) > 1:
        return (
            "chat_template_kwargs differ between the models that wrote the answers, so they are "
            "not written to the files; what you give the trainer's template applies to all answers"
        )
    if told and told[0] and not form.has_arguments:
        return (
            f"the answers were written with chat_template_kwargs {orjson.dumps(told[0]).decode()}; "
            "this format has no field for them: give the trainer's chat template the same values"
        )
    return None


def _tell_of_template(recipe: Recipe | None) -> str | None:
    """Which answers were written under a chat template that the trainer does not know."""
    aliases = sorted(answering_aliases(recipe)) if recipe else []
    own = [alias for alias in aliases if recipe and recipe.model(alias).chat_template is not None]
    if not own:
        return None
    return (
        f"the answers of {', '.join(own)} were written under a chat_template of the recipe; give "
        "the trainer's tokenizer the same one, since the files do not carry it"
    )


def _measure(template: "ChatTemplate", pair: Conversation) -> tuple[int, int]:
    """Tokens of the prompt, and of it with its longer answer."""
    if pair.plain_prompt is not None:
        whole = (template.count(pair.plain_prompt + text) for text in (pair.chosen, pair.rejected))
        return template.count(pair.plain_prompt), max(whole)
    answers = (pair.completion("chosen"), pair.completion("rejected"))
    return template.measure(pair.prompt, answers, pair.tool_list)


def _tokenizer(run: FinishedRun, options: ExportOptions) -> Model:
    if isinstance(options.tokenizer, str):
        arguments = _only(_arguments(run.recipe)) or {}
        return Model(alias="tokenizer", model=options.tokenizer, chat_template_kwargs=arguments)
    model = options.tokenizer or find_policy(run)
    if model is None:
        raise PrefdataError(
            "a tokenizer is needed to render and count the chats (--max-tokens, --reasoning keep), "
            "but the texts come from several checkpoints, from a server or from a file; name one "
            "with --tokenizer"
        )
    return model


def _choose_way(
    run: FinishedRun,
    name: str,
    form: Format,
    options: ExportOptions,
    open_template: OpenTemplate,
    say: Say,
) -> Way | None:
    """In which way the thoughts go along; None where they stay behind."""
    if (options.reasoning or run.record.get("reasoning")) != "keep":
        return None
    ways = tuple(w for w in form.ways if w != "text" or options.may_be_text)
    why, way = _first_way(run, open_template, ways)
    if way is not None:
        return way
    rule = run.recipe.output_projection.reasoning if run.recipe else None
    if options.reasoning or rule:
        raise PrefdataError(
            f"{name}: the thoughts of the pairs cannot be kept: {why}; export --reasoning drop "
            "leaves them out"
        )
    say(f"{name}: the thoughts of the pairs are left out: {why}")
    return None


def _first_way(
    run: FinishedRun, open_template: OpenTemplate, ways: tuple[Way, ...]
) -> tuple[str, Way | None]:
    """Why not, or the way in which the first pair with thoughts goes."""
    if not ways:
        return "the format has no place for them", None
    try:
        template = open_template()
    except PrefdataError as err:
        return str(err), None
    for _, row in pairs_in_order(run.folder / "pairs"):
        with suppress(RowError):
            pair = read_conversation(row)
            if all(one.thought for one in pair.sides.values()):
                why = "rendered by the chat template, they are not what the model has written"
                return why, choose_way(pair, template, ways)
    return "no pair has them on both sides", None


def _write(
    run: FinishedRun, name: str, form: Format, folder: Path, found: Survey, way: Way | None
) -> Export:
    temporary = temporary_name(folder)
    names = {"train": form.train, "test": form.test}
    if found.left_out:
        names["left_out"] = LEFT_OUT
    lines, once = dict.fromkeys(names, 0), _Once(found)
    try:
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            for split, file in names.items():
                make_folder((temporary / file).parent)
                files[split] = stack.enter_context((temporary / file).open("wb"))
            for split, record in _records(run.folder / "pairs", form, found, once):
                files[split].write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
                lines[split] += 1
        test = folder / form.test if lines["test"] else None
        if test is None:
            (temporary / form.test).unlink()
        test_name = form.test if test else None
        place = Place(folder.absolute(), form.train, test_name, found.shape.has_tools)
        export = Export(
            name,
            folder,
            folder / form.train,
            test,
            lines={split: lines[split] for split in SPLITS},
            left_out=dict(Counter(fault.reason for fault in found.left_out.values())),
            lines_left_out=dict(once.left_out),
            configuration=form.configure(place),
            lengths=asdict(found.lengths) if found.lengths else None,
            reasoning=way,
        )
        for file, text in export.configuration.items():
            (temporary / file).write_text(text, encoding="utf-8")
        (temporary / MANIFEST).write_bytes(_manifest(export, run, temporary))
        publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return export


def _records(
    pairs: Path, form: Format, found: Survey, once: "_Once"
) -> Iterator[tuple[str, Record]]:
    """Every line, and where it belongs."""
    for place, (_, row) in enumerate(pairs_in_order(pairs)):
        if place in found.left_out:
            yield "left_out", found.left_out[place]._asdict() | row
            continue
        split = "test" if found.is_test[place] else "train"
        pair = found.shape.prepare(read_conversation(row))
        records = form.make(pair, found.shape)
        for record in once.choose(pair, records) if form.is_once else records:
            yield split, record


class _Once:
    """Lets every answer through once, and never one that is both chosen and rejected."""

    def __init__(self, found: Survey) -> None:
        self.left_out: Counter[str] = Counter()
        self._disputed = found.disputed
        self._seen: set[bytes] = set()

    def choose(self, pair: Conversation, records: list[Record]) -> Iterator[Record]:
        """Those of the lines whose answers are new; lines are in the order chosen, rejected."""
        for record, side in zip(records, SIDES, strict=False):
            key = answer_key(pair, side)
            if key in self._disputed:
                self.left_out["answer_on_both_sides"] += 1
            elif key in self._seen:
                self.left_out["repeated_answer"] += 1
            else:
                self._seen.add(key)
                yield record


def _manifest(export: Export, run: FinishedRun, folder: Path) -> bytes:
    """export.json: what was written from what; its presence says that an export made the folder."""
    files = [export.train] + ([export.test] if export.test else [])
    names = [file.relative_to(export.folder).as_posix() for file in files]
    told = {
        "format": export.format,
        "prefdata": version("prefdata"),
        "run": run.record.get("fingerprint"),
        "pairs": identify_pairs(run.folder, run.record),
        "lines": export.lines,
        "left_out": export.left_out,
        "lines_left_out": export.lines_left_out,
        "lengths": export.lengths,
        "reasoning": export.reasoning,
        "sha256": {name: _hash(folder / name) for name in names},
        "files": [*sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*")), MANIFEST],
    }
    return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def _tell(export: Export, say: Say) -> None:
    for reason, count in sorted(export.left_out.items()):
        say(f"left out, {reason}: {count:,} pairs; see {export.folder / LEFT_OUT}")
    for reason, count in sorted(export.lines_left_out.items()):
        say(f"left out, {reason}: {count:,} lines")
    if (lengths := export.lengths) is not None:
        say(
            f"the longest pair has {lengths['longest']:,} tokens; at {lengths['max_tokens']:,} the "
            f"trainer would cut {lengths['cut']:,} pairs, and learn nothing from "
            f"{lengths['emptied']:,} of them, because their prompt alone is that long"
        )
