"""What is odd about a model that can be used all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from umamba2.errors import InputError
from umamba2.models.labels import labels_of, other_modality
from umamba2.models.network import Plan, read_plan
from umamba2.models.plain import read_object

if TYPE_CHECKING:
    from umamba2.models.folder import Model

# What of a dataset description decides the result, beside the names of classes and channels.
DECISIVE = ("orientation", "challenge", "dental_field", "fix_numbers")
_NOTHING = 1e-20  # its square is none in fp32
_FEWEST = 4  # numbers of a filter that are not the same by chance, in half precision either


def doubts_about(model: Model, beside: bool) -> Iterator[str]:
    """One line for everything that is odd about a model.

    Args:
        model: The model.
        beside: Whether plans.json and dataset.json may lie beside what it was read from.
    """
    if channel := other_modality(model.dataset):
        yield f"{model.folder}: found {channel}"
    labels, understood = model.dataset.get("labels"), labels_of(model.dataset)
    stated = labels if isinstance(labels, dict) else {}
    unread = [name for name in stated if name not in understood]
    if unread:  # nor are they known as left and right
        found = f"the label {unread[0]:.60} of {stated[unread[0]]!r:.60}"
        yield f"{model.folder}: found {found}, expected a whole number: {len(unread)} names are not used"
    if stated and len(set(understood.values())) < model.num_classes and not unread:
        found = f"names for {len(set(understood.values()))} of {model.num_classes} classes"
        yield f"{model.folder}: found {found}, expected one for each"
    channels = model.dataset.get("channel_names", model.dataset.get("modality"))
    if isinstance(channels, dict) and len(channels) > 1:  # of the network it is certain
        yield f"{model.folder}: found {len(channels)} channels in the description of the dataset, expected one"
    clicked, patch = model.plan.arch_kwargs.get("patch_size"), list(model.plan.patch_size)
    if model.plan.takes_clicks and clicked != patch:
        yield f"{model.folder}: found clicks that refer to a patch of {clicked!s:.60}, expected the plans' {patch}"
    for fold, weights in model.folds.items():
        odd = [name for name, weight in weights.items() if _is_unlearned(name, weight)]
        if odd:
            count = f"{len(odd)} of {len(weights)} tensors of fold {fold}"
            found = f"filters of one number, next to nothing or twice in {count}, such as {odd[0]:.100}"
            yield f"{model.folder}: found {found}, expected weights as training leaves them"
    for fold, weights in model.folds.items():
        if twin := next((one for one, other in model.folds.items() if one < fold and _are_same(weights, other)), None):
            yield f"{model.folder}: found the same weights in the folds {twin} and {fold}, expected a training each"
    if not beside and (unused := sorted(model.folder.glob("fold_*/checkpoint_*.pth"))):
        yield f"{unused[0]}: found it beside a model.json, which counts, expected one of the two"
    if beside:
        configuration = str(model.source["configuration"])
        yield from _other(model, "plans.json", lambda path, text: _of_plan(read_plan(path, text, configuration)))
        yield from _other(model, "dataset.json", lambda _, text: _of_dataset(text))


def _are_same(some: dict[str, Any], others: dict[str, Any]) -> bool:
    """Whether two folds hold the same weights; the first tensor mostly tells."""
    return all(name in others and torch.equal(weight, others[name]) for name, weight in some.items())


def _is_unlearned(name: str, weight: Any) -> bool:
    """Whether numbers of a tensor are such that no training leaves them so.

    It begins with random filters, weights of norms of 1 and biases of 0; gradients move all but some biases. A filter
    of one number or next to nothing, or the same as another, comes from elsewhere, and so do norms that next to
    nothing passes, or of one number that is neither. Single weights of norms may be 0 where half precision has no
    smaller number.
    """
    if weight.numel() < 2:
        return False
    if weight.ndim > 1:
        filters = weight.flatten(1) if weight[0].numel() >= _FEWEST else weight.flatten()[None]
        possible = _is_one(filters[:, :: filters.shape[1] - 1])  # two numbers of each mostly tell
        if len(filters) > 1 and torch.equal(filters[0], filters[-1]):
            return True
        return any(bool(_is_one(filters[row][None])) for row in possible.nonzero().flatten().tolist())
    blocked = name.endswith("weight") and bool((weight.float().abs() < _NOTHING).float().mean() > 0.5)
    one = len(weight) >= _FEWEST and bool(_is_one(weight[None])) and float(weight[0]) not in (0, 1)
    return blocked or one


def _is_one(filters: Any) -> Any:
    """Which rows of numbers are the same number again and again, or next to nothing."""
    filters = filters.float()  # torch does not compare in 8 bits
    return (filters == filters[:, :1]).all(1) | (filters.abs() < _NOTHING).all(1)


def _other(model: Model, name: str, read: Any) -> Iterator[str]:
    """What a file beside the folds says otherwise than the checkpoint, which counts; to nnU-Net the file would."""
    path = model.folder / name
    if not path.is_file():
        return
    try:
        found = read(path, read_object(path))
    except InputError as error:
        yield f"{error} (the checkpoint has its own, which count)"
        return
    own = _of_plan(model.plan) if name == "plans.json" else _of_dataset(model.dataset)
    for entry in [*own, *found]:
        one, other = found.get(entry), own.get(entry)
        if one != other:
            yield f"{path}: found {entry} {one!s:.100}, expected {other!s:.100} as in the checkpoint, which counts"
            return


def _of_plan(plan: Plan) -> dict[str, Any]:
    """What decides the result, by name."""
    found = {name: value for name, value in vars(plan).items() if name not in ("arch_kwargs", "intensity")}
    found["network_class_name"] = plan.network_class_name.rsplit(".", 1)[-1]
    return {**found, **plan.arch_kwargs, **plan.intensity, "patch_size": plan.patch_size}


def _of_dataset(dataset: dict[str, Any]) -> dict[str, Any]:
    channels = dataset.get("channel_names", dataset.get("modality"))
    number = len(channels) if isinstance(channels, dict) else None
    stated = {name: dataset.get(name) for name in DECISIVE}
    return {"labels": labels_of(dataset), "channels": number, "a channel": other_modality(dataset), **stated}
