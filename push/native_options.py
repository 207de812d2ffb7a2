"""How the makers of phones are asked to show our notices (config/messages/native_options.json), judged at start.

A killed Android app is reached only through its maker's channel, and makers limit what is not classed as a service or private message:
Huawei and vivo by `category`, Xiaomi and OPPO by an approved `channel_id`, Honor by `importance`; JPush passes the class on
(`options.classification`, always 1: a notice of ours is never advertising). The values are granted per account.
Source: JPush, REST API v3, push, options.third_party_channel.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

FILE_NAME = "native_options.json"
# secondary_push: JPush's own connection while the app is on line, the maker's channel else. `jpush` alone would miss a killed app.
DISTRIBUTIONS = ("secondary_push", "first_ospush", "ospush", "jpush")
_WORD = str
# maker -> name of an option -> what it may be
MAKERS: Mapping[str, Mapping[str, Any]] = {
    "xiaomi": {"channel_id": _WORD, "mi_template_id": _WORD},
    "huawei": {"importance": ("LOW", "NORMAL", "HIGH"), "category": _WORD},
    "honor": {"importance": ("LOW", "NORMAL")},
    "oppo": {"channel_id": _WORD, "category": _WORD, "notify_level": (1, 2, 16)},
    "vivo": {"classification": (1,), "category": _WORD, "push_mode": (0, 1)},
    "meizu": {},
    "fcm": {"channel_id": _WORD},
}


@dataclass(frozen=True)
class NativeOptions:
    """What a push carries beside its text. `makers`: maker -> its part of `third_party_channel`."""

    android: Mapping[str, Any]
    hmos: Mapping[str, Any]
    makers: Mapping[str, Mapping[str, Any]]

    def third_party(self, vendors: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return `third_party_channel` for devices of these makers; a device whose maker is not known may be any of them."""
        known = set(vendors) & set(self.makers)
        wanted = known if known and known == set(vendors) else set(self.makers)
        return {maker: dict(options) for maker, options in self.makers.items() if maker in wanted}


def load_native_options(folder: Path) -> NativeOptions:
    """Read the file and judge it.

    Raises:
        ValueError: names every mistake.
    """
    data = orjson.loads((folder / FILE_NAME).read_bytes())
    wrong = [f"{name}: unknown" for name in sorted(set(data) - {"android", "hmos", "third_party_channel"})]
    makers = data.get("third_party_channel", {})
    for maker, options in makers.items():
        if maker not in MAKERS:
            wrong.append(f"third_party_channel: {maker}: unknown maker")
            continue
        for name, value in options.items():
            allowed = DISTRIBUTIONS if name == "distribution" else MAKERS[maker].get(name)
            is_right = (isinstance(value, str) and 0 < len(value) <= 64) if allowed is _WORD else value in (allowed or ())
            if not is_right:
                wrong.append(f"third_party_channel: {maker}: {name}: {value!r} is not allowed")
        if "distribution" not in options:
            wrong.append(f"third_party_channel: {maker}: distribution is missing")
    wrong += [f"third_party_channel: {maker} is missing" for maker in MAKERS if maker not in makers]
    if wrong:
        raise ValueError("\n".join(f"{FILE_NAME}: {line}" for line in wrong))
    return NativeOptions(data.get("android", {}), data.get("hmos", {}), makers)
