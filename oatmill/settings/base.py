"""The base class of all settings, and the settings that all roles share (pydantic; no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from oatmill.errors import SettingsError
from oatmill.settings.complaints import describe_error, refuse_bool_for_a_number


class Settings(BaseModel):
    """Settings that are validated on construction and on every assignment; unknown names raise an error.

    `freeze` is called when a run starts, so that the run uses the settings that were planned.

    Attributes:
        earlier_names: names that settings had in earlier versions, with those of today. Files with them are still read.
    """

    earlier_names: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, use_attribute_docstrings=True)
    _frozen: bool = PrivateAttr(default=False)
    _path: str = PrivateAttr(default="")

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        renamed = {cls.earlier_names[name]: value for name, value in values.items() if name in cls.earlier_names}
        return renamed | {name: value for name, value in values.items() if name not in cls.earlier_names}

    @model_validator(mode="before")
    @classmethod
    def _refuse_bool_for_a_number(cls, values: Any) -> Any:
        # Pydantic reads true as 1, so trainer.batch_size=true would train on batches of one.
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, bool) and name in cls.model_fields:
                refuse_bool_for_a_number(cls, name, value)
        return values

    def model_post_init(self, _context: Any, /) -> None:
        """Set the paths of nested settings."""
        self.place(self._path)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign with validation, unless the run has started. A rejected assignment changes nothing.

        Raises:
            SettingsError: if there is no such setting, or the value has a wrong type or is out of
                bounds.
        """
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        if self._frozen:
            path = f"{self._path}.{name}" if self._path else name
            raise SettingsError(f"{path} cannot be changed any more: the run has started")
        before, before_set = dict(self.__dict__), set(self.__pydantic_fields_set__)
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            # A check of several fields runs after the assignment: restore the old value.
            self.__dict__.update(before)
            self.__pydantic_fields_set__.intersection_update(before_set)
            raise SettingsError(describe_error(type(self), error, self._path)) from None
        self.place(self._path)

    def place(self, path: str) -> None:
        """Set the path of these settings, such as `trainer.losses.cmpo`. Error messages start with it."""
        self._path = path
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Settings):
                value.place(f"{path}.{name}" if path else name)

    def freeze(self) -> None:
        """Reject all later assignments, here and in nested settings."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Settings):
                value.freeze()
        self._frozen = True


class MetricsSettings(Settings):
    """Where metrics are reported, in addition to metrics.jsonl, which is always written."""

    host: str = "127.0.0.1"
    """Address that /metrics, /healthz and /readyz listen on."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port of these endpoints. 0 takes a free port and writes it to run.json."""
    report_every: int = Field(default=1, ge=1)
    """Learner steps between reports. The first and the last are always reported."""
    gradient_every: int = Field(default=100, ge=1)
    """Updates between measurements of the gradient of each loss."""
    tensorboard: bool | None = None
    """Also write TensorBoard event files to the run folder. Null means only if `tensorboard` is installed."""
    wandb: bool = False
    """Also write a Weights & Biases run to the run folder: offline, unless WANDB_MODE says
    otherwise."""
    mlflow: bool = False
    """Also write an MLflow run: to MLFLOW_TRACKING_URI, or to `mlflow.db` in the run folder."""
