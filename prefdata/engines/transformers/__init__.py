"""transformers: small models on a CPU, batched so that rows do not depend on their batch.

Importing this package imports no torch; opening an engine does.
"""

from typing import Any

from prefdata.engines.protocols import Hosted
from prefdata.engines.reward_families import Family
from prefdata.recipe.schema import Model


def open_text(model: Model, path: str, adapters: tuple[str, ...] = ()) -> Hosted[Any, Any]:
    """A TextEngine with the checkpoint at `path`, and adapters that requests may name."""
    from prefdata.engines.transformers.model import Checkpoint
    from prefdata.engines.transformers.text import TransformersTextEngine

    checkpoint = Checkpoint.of(model, path, adapters)
    return TransformersTextEngine.load(
        checkpoint, model.engine, reasoning=model.reasoning, tool_parser=model.tool_parser
    )


def open_reward(model: Model, path: str, family: Family) -> Hosted[Any, Any]:
    """A RewardEngine with the checkpoint at `path`, read as its family is."""
    from prefdata.engines.transformers.model import Checkpoint
    from prefdata.engines.transformers.reward import TransformersRewardEngine

    checkpoint = Checkpoint.of(model, path, () if model.adapter is None else (model.adapter,))
    return TransformersRewardEngine.load(checkpoint, model.engine, reading=family.reading)
