"""Settings by name: a preset fills in what a job does not give."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, Field, field_validator, model_validator

Presets = Mapping[str, Mapping[str, Any]]


def preset_field(presets: Presets) -> Any:
    """Makes the field `preset` of some settings, with the presets in the description and in the JSON schema."""
    return Field(
        None,
        exclude=True,
        repr=False,
        description=f"Values to start from: {', '.join(presets)}.",
        json_schema_extra={"enum": [None, *presets]},
    )


class PresetSettings(BaseModel):
    """Settings that a `preset` can start from.

    The settings that result are stored, not the preset's name. A subclass with presets sets `PRESETS` and declares
    ``preset: str | None = preset_field(PRESETS)``.
    """

    PRESETS: ClassVar[Presets] = {}

    preset: str | None = preset_field({})

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, Mapping) else None
        if not isinstance(name, str) or name not in cls.PRESETS:
            return values
        given = {key: value for key, value in values.items() if key != "preset"}
        return {**cls.PRESETS[name], **given}

    @field_validator("preset")
    @classmethod
    def _refuse_unknown_preset(cls, name: str | None) -> None:
        if name is not None:  # those that exist were replaced by their values
            near = difflib.get_close_matches(name[:100], cls.PRESETS, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            known = ", ".join(cls.PRESETS)
            raise ValueError(f"unknown preset {name[:100]!r}; {hint}The presets are {known}.")
