"""The models, by the names that `--model` takes, and the way to add one."""

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
    """Let `ModelConfig(model=name)` mean a recipe.

    Args:
        settings: those of fanout, heads, layers and slots that the model takes, with its defaults; all others are
            refused when somebody gives them. `layers` needs a `fanout`.

    Raises:
        ConfigError: the name is taken, or a setting is none of these.
    """
    if name in REGISTRY:
        raise ConfigError(f"register: there is a model {name!r} already; choose another name")
    for setting in settings:
        if setting not in ("fanout", "heads", "layers", "slots"):
            raise ConfigError(f"register: {setting!r} is none of fanout, heads, layers, slots; leave it out")
    REGISTRY[name], MODELS[name] = recipe, settings


def build_model(config: ModelConfig, facts: Facts) -> TemporalModel:
    """The model that `config.model` names, for a stream of these facts.

    Raises:
        ConfigError: it samples neighbours, but was registered without a fanout.
    """
    model = TemporalModel(REGISTRY[config.model], config, facts)
    if (model.layers or model.mailbox.hears) and not config.setting("fanout"):
        raise ConfigError(
            f"model {config.model} samples neighbours and has no fanout; register it with one, as fanout=10"
        )
    return model
