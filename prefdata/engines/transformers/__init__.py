"""transformers: small models on a CPU, batched so that rows do not depend on their batch.

Importing this package imports no torch; opening an engine does.
"""

from typing import Any

from prefdata.engines.protocols import Hosted
from prefdata.engines.reward_families import Family
from prefdata.recipe.schema import Model


def open_text(model: Model, path: str, adapters: tuple[str, ...] = ()) -> Hosted[Any, Any]:
    """An engine of texts with the checkpoint at `path`, and adapters that requests may name."""
    from prefdata.engines.transformers.model import Checkpoint
    from prefdata.engines.transformers.text import load_text_engine

    checkpoint = Checkpoint.of(model, path, adapters)
    return load_text_engine(checkpoint, model.engine, model.reasoning, model.tool_parser)


def open_reward(model: Model, path: str, family: Family) -> Hosted[Any, Any]:
    """An engine of scores with the checkpoint at `path`, read as its family is."""
    from prefdata.engines.transformers.model import Checkpoint
    from prefdata.engines.transformers.reward import load_reward_engine

    checkpoint = Checkpoint.of(model, path, () if model.adapter is None else (model.adapter,))
    return load_reward_engine(checkpoint, model.engine, family.reading)
