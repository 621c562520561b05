"""The strategy of a run: the settings of its profile, or tuning while it trains."""

from __future__ import annotations

from collections.abc import Callable

from mspipe_triton.config import RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.devices import resolve_device
from mspipe_triton.execution import RunSettings
from mspipe_triton.training.strategy import Fixed, Strategy
from mspipe_triton.tuning.online import OnlineTuning
from mspipe_triton.tuning.profile.describe import describe
from mspipe_triton.tuning.profile.key import Key
from mspipe_triton.tuning.profile.profile import apply
from mspipe_triton.tuning.profile.store import ProfileStore


def strategy_for(
    config: RunConfig,
    stream: EventStream,
    store: ProfileStore | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Strategy:
    """Return the strategy of a run: the settings of its profile, or tuning while it trains if no profile fits.

    Kernel configurations of the profile are in force afterwards.

    Args:
        config: of the run. stream: its events. store: for profiles; in the user's cache folder by default.
        note: gets one line at a time.

    Raises:
        ConfigError: the run is for a GPU, and none is usable.
    """
    store, (resolved, line) = store or ProfileStore(), resolve_device(config)
    key = Key.of(resolved, stream)
    profile = store.find(key)
    store.tell(note)
    if profile is None:
        return OnlineTuning(resolved, stream, key, store)
    if line is not None:
        note(line)
    name = store.path(key).name
    note(f"Settings from {name}: {describe(profile)}.")
    apply(profile)
    times = {stage: summary["median"] for stage, summary in profile.stage_seconds.items()}
    return Fixed(RunSettings(**profile.settings), times, name)
