"""Registry of the models by name, and the function that adds one."""

from __future__ import annotations

from mspipe_triton.config import MODELS, ModelConfig
from mspipe_triton.errors import ConfigError
from mspipe_triton.models.apan import APAN
from mspipe_triton.models.jodie import JODIE
from mspipe_triton.models.model import EmbeddingInput, Facts, Recipe, TemporalModel
from mspipe_triton.models.tgn import TGAT, TGN

REGISTRY: dict[str, Recipe] = {"tgn": TGN, "jodie": JODIE, "apan": APAN, "tgat": TGAT}

__all__ = ["EmbeddingInput", "Facts", "Recipe", "TemporalModel", "build_model", "register"]


def register(name: str, recipe: Recipe, **settings: int) -> None:
    """Register a recipe as `ModelConfig(model=name)`.

    Args:
        settings: defaults of the model's settings among fanout, heads, layers and slots; users cannot set the others.
            `layers` needs a `fanout`.

    Raises:
        ConfigError: the name is in use, or a setting is not one of these.
    """
    if name in REGISTRY:
        raise ConfigError(f"register: there is already a model {name!r}; choose another name")
    for setting in settings:
        if setting not in ("fanout", "heads", "layers", "slots"):
            raise ConfigError(f"register: {setting!r} is not one of fanout, heads, layers, slots; omit it")
    REGISTRY[name], MODELS[name] = recipe, settings


def build_model(config: ModelConfig, facts: Facts) -> TemporalModel:
    """Build the model that `config.model` names, for a stream with these facts.

    Raises:
        ConfigError: the model samples neighbours, but was registered without a fanout.
    """
    model = TemporalModel(REGISTRY[config.model], config, facts)
    if (model.layers or model.mailbox.hears) and not config.setting("fanout"):
        raise ConfigError(
            f"model {config.model} samples neighbours and has no fanout; register it with one, such as fanout=10"
        )
    return model
