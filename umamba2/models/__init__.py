"""Model folders: finding, reading and writing them, without ever executing a pickle."""

from typing import TYPE_CHECKING

from umamba2.lazy import lazily

__all__ = ["Model", "describe", "load_model", "slim"]

if TYPE_CHECKING:
    from umamba2.models.folder import Model, describe, load_model, slim
else:
    __getattr__ = lazily(__name__, dict.fromkeys(__all__, "folder"))
