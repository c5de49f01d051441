"""transformers: small models on a CPU, batched so that rows do not depend on their batch.

Importing this package imports no torch; opening an engine does.
"""

from prefdata.engines.protocols import HostedReward, HostedText
from prefdata.engines.reward_families import Family
from prefdata.recipe.schema import Model


def open_text(model: Model, path: str) -> HostedText:
    """A TextEngine with the checkpoint at `path`."""
    from prefdata.engines.transformers.text import TransformersTextEngine

    return TransformersTextEngine.load(
        path,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        options=model.engine,
        reasoning=model.reasoning,
    )


def open_reward(model: Model, path: str, family: Family) -> HostedReward:
    """A RewardEngine with the checkpoint at `path`, read as its family is."""
    from prefdata.engines.transformers.model import Checkpoint
    from prefdata.engines.transformers.reward import TransformersRewardEngine

    checkpoint = Checkpoint(path, model.revision, model.trust_remote_code)
    return TransformersRewardEngine.load(checkpoint, model.engine, reading=family.reading)
