# SPDX-License-Identifier: MIT
"""The options of ``drive=`` and ``device=`` for policies that QEMU lacks."""

from __future__ import annotations

from blockcore.qapi.names import DeviceOnError, OnStop, QmpError, UInt32
from blockcore.qapi.texts import opt_number
from blockcore.rules.policy import DEFAULT_RETRY, Retry

MS_MAX = (1 << 32) - 1

RETRY_OPTIONS = ("retry-interval", "retry-timeout")

ON_STOP = "x-on-stop"


def take_retry(opts: dict[str, str], policies: tuple[DeviceOnError, DeviceOnError]) -> Retry | None:
    """Take retry-interval and retry-timeout out of `opts`, None if neither is there.

    openEuler's QEMU spells both with ``_``.  Raise QmpError if they are no
    milliseconds, or if neither of the policies tries anything again.
    """
    given: dict[str, UInt32] = {}
    for name in RETRY_OPTIONS:
        alias = name.replace("-", "_")
        if alias in opts:
            if name in opts:
                raise QmpError(f"'{name}' and its alias '{alias}' can't be used at the same time")
            opts[name] = opts.pop(alias)
        if name in opts:
            given[name] = _milliseconds(opts.pop(name), name)
    if not given:
        return None
    if not {DeviceOnError.RETRY, DeviceOnError.AUTO}.intersection(policies):
        raise QmpError(f"{next(iter(given))} is only supported by werror/rerror=retry")
    retry = Retry(
        interval_ms=given.get("retry-interval", DEFAULT_RETRY.interval_ms),
        timeout_ms=given.get("retry-timeout", DEFAULT_RETRY.timeout_ms),
    )
    retry.check()
    return retry


def take_on_stop(opts: dict[str, str]) -> OnStop | None:
    """Take x-on-stop out of `opts`, None if it is not there."""
    text = opts.pop(ON_STOP, None)
    if text is None:
        return None
    if text not in tuple(OnStop):
        raise QmpError(f"Parameter '{ON_STOP}' does not accept value '{text}'")
    return OnStop(text)


def _milliseconds(text: str, name: str) -> UInt32:
    number = opt_number(text, name)
    if number > MS_MAX:
        raise QmpError(f"Parameter '{name}' expects at most {MS_MAX} milliseconds")
    return UInt32(number)
