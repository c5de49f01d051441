"""The settings of a training on NeMo Customizer. Knows no network and no SDK.

Names are those of NeMo Agent Toolkit's adapter and of the service's own API. A field without a
value is not sent, and the service decides.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from prefdata.recipe.values import EnvironmentName, Filled, Frozen, HttpUrl, Positive, SettingsModel

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
EntityName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$", max_length=90)
]
"""Becomes a part of addresses and of a Hub repository's name."""


class DpoParameters(Frozen):
    """What only DPO has; sent where `training_type` is `dpo`."""

    ref_policy_kl_penalty: NotNegative = 0.1
    """`beta` of the DPO paper: how dear it is to leave the reference policy."""
    preference_loss_weight: NotNegative = 1.0
    preference_average_log_probs: bool = False
    """Whether log-probabilities are averaged over an answer's tokens; they are summed otherwise."""
    sft_loss_weight: NotNegative = 0.0
    """Weight of a supervised loss on the chosen answers, besides the preference loss."""
    sft_average_log_probs: bool | None = None
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None


class LoraParameters(Frozen):
    """What only LoRA has; sent where `finetuning_type` is `lora`."""

    adapter_dim: Positive | None = None
    """The rank, a power of two."""
    alpha: Positive | None = None
    adapter_dropout: Share | None = None
    target_modules: Annotated[tuple[Filled, ...], Field(min_length=1)] | None = None


class Hyperparameters(Frozen):
    """How the model is trained; the defaults are those of the service for DPO."""

    training_type: Literal["dpo", "sft"] = "dpo"
    """`sft` trains on the chosen answers alone."""
    finetuning_type: Literal["lora", "all_weights"] = "all_weights"
    epochs: Positive = 1
    batch_size: Positive = 16
    learning_rate: Annotated[float, Field(gt=0)] = 9e-6
    dpo: DpoParameters = DpoParameters()
    lora: LoraParameters = LoraParameters()
    seed: int | None = None
    max_steps: Positive | None = None
    """Training ends after so many steps, whatever `epochs` says."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    weight_decay: NotNegative | None = None
    min_learning_rate: NotNegative | None = None
    optimizer: (
        Literal[
            "adam_with_cosine_annealing",
            "adam_with_flat_lr",
            "adamw_with_cosine_annealing",
            "adamw_with_flat_lr",
        ]
        | None
    ) = None
    adam_beta1: Share | None = None
    adam_beta2: Share | None = None
    val_check_interval: Annotated[float, Field(gt=0)] | None = None
    """Batches between looks at the validation set, or a share of an epoch."""
    log_every_n_steps: Positive | None = None
    sequence_packing_enabled: bool | None = None


class Deployment(Frozen):
    """The NIM that serves the trained model."""

    image_name: Filled
    image_tag: Filled = "latest"
    gpu: Positive = 1
    deployment_name: EntityName | None = None
    """Derived from the job's name where left out."""
    description: str = "Trained on preference data by prefdata"
    additional_envs: dict[Filled, str] | None = None
    """Environment variables of the container; they are stored by the platform as they stand."""
    disable_lora_support: bool | None = None
    pvc_size: Filled | None = None


class CustomizerSettings(SettingsModel):
    """Where to train, on what model, how, and what becomes of the result."""

    # a token that was given in the place of its variable's name is not repeated
    model_config = ConfigDict(hide_input_in_errors=True)

    entity_host: HttpUrl
    """The platform: entity store, customizer and deployment management."""
    datastore_host: HttpUrl
    """The data store, which speaks the Hub's API under `/v1/hf`."""
    token: EnvironmentName | None = None
    """The name of the environment variable that holds the token for both hosts; none is sent where
    it is left out, unset or empty."""
    namespace: EntityName
    create_namespace_if_missing: bool = True
    dataset_name: EntityName | None = None
    """Named after the content of the files where left out, so that no other job's data change."""
    customization_config: Filled
    """Model and GPU as the service names them: meta/llama-3.2-1b-instruct@v1.0.0+A100."""
    hyperparameters: Hyperparameters = Hyperparameters()
    output_model: Filled | None = None
    """`namespace/name@version` of the trained model; the service names it where left out."""
    job_name: EntityName | None = None
    """Named after files and settings where left out."""
    description: str = "Preference data by prefdata"
    use_full_message_history: bool = True
    """Whether prompts are sent whole; only the last message's text otherwise."""
    wait: bool = True
    """Whether to stay until the job has ended; otherwise the command run again looks once."""
    poll_interval_seconds: Seconds = 30.0
    timeout_seconds: Seconds = 86400.0
    """How long to wait for the job; the command run again waits as long once more."""
    max_consecutive_status_failures: Positive = 10
    """Looks at a job or a deployment that may fail in a row."""
    deploy_on_completion: bool = False
    deployment: Deployment | None = None
    deployment_timeout_seconds: Seconds = 1800.0

    @model_validator(mode="after")
    def _image_to_deploy(self) -> "CustomizerSettings":
        if self.deploy_on_completion and self.deployment is None:
            raise ValueError(
                "'deploy_on_completion' is set and 'deployment' is not; say there which image "
                "serves the model (image_name)"
            )
        return self
