"""What a person may set of a local training run. Trains nothing."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from prefdata.recipe.values import Filled, Frozen, Place, Positive, Seed, SettingsModel

Share = Annotated[float, Field(ge=0, le=1)]
Loss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


class Lora(Frozen):
    """Low-rank adapters in the place of all weights (Hu et al. 2021); names are peft's."""

    r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Share = 0.0
    target_modules: Filled | tuple[Filled, ...] = "all-linear"


class Evaluation(Frozen):
    """How held-out prompts are answered before and after; the recipe's verifiers judge."""

    path: Place | None = None
    """File with the prompts and what the verifiers read; the run's own test prompts where left
    out."""
    limit: Positive | None = None
    """Prompts, at most."""
    samples: Positive = 4
    """Answers to each."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """As in the recipe, of the first alias of the model, where left out."""
    max_tokens: Positive | None = None
    """As `temperature`."""


class TrlSettings(SettingsModel):
    """Direct preference optimization with TRL."""

    paths: ClassVar[tuple[str, ...]] = ("model", "accelerate", "evaluation.path")

    model: Place | None = None
    """Folder or Hub id to start from; the model that wrote the run's texts where left out."""
    revision: str | None = None
    trust_remote_code: bool = False
    seed: Seed = 0
    """Of the order of the pairs, of adapters and of the evaluation's samples."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the policy is held to the model it starts from."""
    loss_type: Annotated[tuple[Loss, ...], Field(min_length=1)] = ("sigmoid",)
    """TRL's names; several are added up."""
    loss_weights: tuple[float, ...] | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """1e-6 for all weights, 1e-5 for adapters where left out."""
    lr_scheduler_type: Filled = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises; none where that is less than one."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    epochs: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Positive = 32
    """Pairs of one step, over all devices."""
    micro_batch_size: Positive = 8
    """Pairs that one device holds at a time; divides `batch_size`."""
    max_length: Positive = 2048
    """Tokens of prompt and answer; what is longer is left out of the training."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Of the weights while they are trained; `auto` is float32 on a CPU, else as stored."""
    lora: Lora | None = None
    """All weights are trained where left out."""
    save_steps: Positive | None = None
    """Steps between checkpoints from which a killed run goes on; each epoch where left out."""
    arguments: dict[str, Any] = {}
    """Further arguments of TRL's `DPOConfig`."""
    processes: Positive = 1
    """Processes that share each batch, one a GPU, each with the whole model."""
    accelerate: Place | None = None
    """Configuration of `accelerate`, in the place of `processes`: FSDP, DeepSpeed, many nodes."""
    command: Filled | None = None
    """Trains in the place of TRL, on as many GPUs or machines as it likes: a command line as in
    `torchrun train.py {pairs} {model} {out}`, which gets the pairs (TRL's JSON lines), the model to
    start from, and the folder to leave the trained one in. Of the other settings it sees none."""
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _one_way_to_use_many_devices(self) -> "TrlSettings":
        ways = {
            "command": self.command, "accelerate": self.accelerate,
            "processes": self.processes > 1, "lora": self.lora,
        }  # fmt: skip
        given = [name for name, is_given in ways.items() if is_given]
        if len(given) > 1:
            raise ValueError(
                f"{given[0]} and {given[1]} are both given, and do not go together; keep one"
            )
        return self

    @field_validator("command")
    @classmethod
    def _reads_pairs_and_writes(cls, value: str | None) -> str | None:
        if missing := [name for name in ("{pairs}", "{out}") if value and name not in value]:
            raise ValueError(
                f"{missing[0]} is missing; the command reads {{pairs}}, writes {{out}}"
            )
        return value

    @field_validator("loss_type", mode="before")
    @classmethod
    def _one_loss_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value
