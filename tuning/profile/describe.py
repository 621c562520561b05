"""Descriptions of a profile's settings, in words."""

from __future__ import annotations

from mspipe_triton.execution import RunSettings
from mspipe_triton.tuning.profile.profile import Profile


def describe(profile: Profile) -> str:
    """Return a profile's settings and their gain, as a clause."""
    facts = profile.search
    trials = count_trials(facts["trials"])
    if facts["shipped_kept"]:
        return f"nothing is faster than the shipped settings by more than the noise ({trials})"
    settings = describe_settings(RunSettings(**profile.settings))
    return f"{settings}, {facts['gain']:.0%} faster than the shipped settings ({trials})"


def count_trials(trials: int) -> str:
    """Return a number of trials, in words."""
    return f"{trials} trial{'s' * (trials != 1)}"


def describe_settings(settings: RunSettings) -> str:
    """Return settings in a few words."""
    ahead = "" if settings.resident or settings.schedule == "serial" else f" {settings.prefetch} ahead"
    others = "" if settings.host_threads == settings.threads else f" ({settings.host_threads} beside)"
    words = [f"{settings.schedule}{ahead}", f"{settings.threads} thread{'s' * (settings.threads > 1)}{others}"]
    words += ["neighbours not deduplicated"] * (settings.deduplicate == "roots")
    words += ["unfused"] * (not settings.fused)
    words += ["features on the device"] * (settings.features == "device")
    words += ["not captured"] * (not settings.captured)
    words += ["sampled in turn"] * (not settings.branch)
    words += ["rows gathered by kernel"] * (settings.gather == "kernel")
    return ", ".join(words)
