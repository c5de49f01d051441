"""The engines of a run: what each alias stands for, loaded when first asked, closed at the end.

Every engine is behind the journal. Knows neither rows nor stages.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from prefdata import engines
from prefdata.engines.checkpoints import check_role, identify
from prefdata.engines.scripted import ScriptedReward, ScriptedText
from prefdata.fingerprint import ScoreKeys, TextKeys, model_identity
from prefdata.plan import Checkpoint, Pass, plan_passes
from prefdata.recipe import Model
from prefdata.recipe_loader import LoadedRecipe
from prefdata.runtime.journal import Journal
from prefdata.runtime.journaled import JournaledReward, JournaledText, Work


class Fleet:
    """Engines by checkpoint, shared by the aliases and the passes that use them.

    Attributes:
        checkpoints: content hash or commit of every alias's checkpoint.
        work: what was asked of the engines so far.
    """

    def __init__(
        self, loaded: LoadedRecipe, journal: Path, *, rehearse: bool, say: Callable[[str], None]
    ) -> None:
        """Identify and check every checkpoint; load none.

        Args:
            loaded: whose models are used.
            journal: folder of the journal, read when the first engine is wanted.
            rehearse: use the scripted engines in the place of all models.
            say: told of damaged records.

        Raises:
            PrefdataError: a checkpoint is missing, or cannot do what the recipe wants of it.
        """
        self._loaded, self._rehearse, self._say = loaded, rehearse, say
        self._journal_folder = journal
        self._journal: Journal | None = None
        self._engines: dict[str, JournaledText | JournaledReward] = {}
        self.work = Work()
        roles = {
            model.alias: checkpoint.role
            for step in plan_passes(loaded.recipe)
            for key, checkpoint in step.checkpoints.items()
            for model in loaded.recipe.models
            if Checkpoint(checkpoint.role, model).key == key
        }
        self.checkpoints = {m.alias: self._identify(m, roles) for m in loaded.recipe.models}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for engine in self._engines.values():
                engine.close()
        finally:
            if self._journal is not None:
                self._journal.close()

    def engines_of(self, step: Pass) -> tuple[dict[str, JournaledText], dict[str, JournaledReward]]:
        """Text and reward engines of a pass, by alias."""
        text: dict[str, JournaledText] = {}
        reward: dict[str, JournaledReward] = {}
        for model in self._loaded.recipe.models:
            for key, checkpoint in step.checkpoints.items():
                if Checkpoint(checkpoint.role, model).key != key:
                    continue
                engine = self._engines.setdefault(key, self._make(checkpoint))
                if isinstance(engine, JournaledText):
                    text[model.alias] = engine
                else:
                    reward[model.alias] = engine
        return text, reward

    def _identify(self, model: Model, roles: dict[str, engines.Role]) -> str:
        if self._rehearse:
            return "scripted"
        path = self._loaded.locate(model.model)
        if model.alias in roles and not model.skip_health_check:
            check_role(model, path, roles[model.alias])
        return identify(model, path)

    def _make(self, checkpoint: Checkpoint) -> JournaledText | JournaledReward:
        model = checkpoint.model
        identity = model_identity(model, self.checkpoints[model.alias])
        journal = self._open_journal()
        if checkpoint.role == "text":
            return JournaledText(lambda: self._text(model), TextKeys(identity), journal, self.work)
        keys = ScoreKeys(identity)
        return JournaledReward(lambda: self._reward(model), keys, journal, self.work)

    def _text(self, model: Model) -> engines.TextEngine:
        self.work.loads.append(model.model)
        if self._rehearse:
            return ScriptedText()
        return engines.open_text_engine(model, self._loaded.locate(model.model))

    def _reward(self, model: Model) -> engines.RewardEngine:
        self.work.loads.append(model.model)
        if self._rehearse:
            return ScriptedReward()
        return engines.open_reward_engine(model, self._loaded.locate(model.model))

    def _open_journal(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self._journal_folder)
            for damage in self._journal.damage:
                self._say(str(damage))
        return self._journal
