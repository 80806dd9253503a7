"""From one version of a task's model to the next where its network may become smaller: mask and form.

Both follow from the form, the weights and the mask of the version before, on all sides alike, bit for bit: a unit that
leaves the network was out of the mask, so that nothing has to be folded and arrays are only cut.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Mask, Weights
from fedprune.task.forms import Form, Forms
from fedprune.task.versions import first_mask, mask_after


def first_version(task_forms: Forms, initial: Weights) -> tuple[Form, dict[str, NDArray[np.bool_]]]:
    """The form of version 0, and its mask in whole shapes, of the `initial` weights."""
    whole = task_forms.whole
    mask = first_mask(whole.task, whole.network, initial)
    return task_forms.after(whole, mask, 0, 0), mask


def following_version(
    task_forms: Forms, form: Form, version: int, weights: Weights, mask: Mask
) -> tuple[Form, dict[str, NDArray[np.bool_]]]:
    """The form of the version after `version`, and its mask.

    Args:
        task_forms: the task's.
        form: that of `version`.
        version: the one that is known.
        weights: its weights, frozen and local ones too, by tensor name, in its form.
        mask: its mask, in its form.

    Returns:
        The next form, and the mask in that form.
    """
    whole = task_forms.whole
    found = mask_after(whole.task, whole.network, version, form.expanded(weights), form.expanded(mask))
    following = task_forms.after(form, found, version, version + 1)
    return following, following.cut_all(found)
