"""The order of prompts over a run: (1) of `commands.fine_tuning.prompts`."""

import numpy as np
import pytest

from ctrl_jax.commands.fine_tuning.prompts import Course, PromptOrder


def test_every_prompt_comes_once_per_epoch_in_an_order_of_its_own():
    order = PromptOrder([3.0] * 7, seed=0)
    epochs = order.prompts(0, 35).reshape(5, 7)
    assert (np.sort(epochs) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 5
    other = PromptOrder([3.0] * 7, seed=1).prompts(0, 35)
    assert (other != epochs.ravel()).any()


@pytest.mark.parametrize("weights", [[2.0, 1.0, 1.0], [0.1, 1.0, 5.0, 0.7], [1.0], [1e-9, 1.0]])
def test_any_part_is_that_of_the_whole_and_weights_count(weights):
    order = PromptOrder(weights, seed=3)
    whole, n = order.prompts(0, 400), len(weights)
    for first, number in ((0, 1), (17, 5), (123, 64), (399, 1)):
        np.testing.assert_array_equal(order.prompts(first, number), whole[first : first + number])
    # After e epochs within one of w_i e; e itself is known to within the places of an epoch.
    epochs = order.epoch_of(400)
    share = np.asarray(weights, float) / np.mean(weights)
    counts = np.bincount(whole, minlength=n)
    inside = share * (epochs % 1 > 0)  # of an epoch that is not over
    assert (np.abs(counts - share * np.floor(epochs)) <= 1 + np.ceil(inside) + 1e-3).all()
    assert epochs == pytest.approx(400 / n, abs=1)


def test_an_update_takes_the_next_places():
    course = Course(PromptOrder([1.0] * 5, seed=0), places=3)
    whole = course.order.prompts(0, 30)
    np.testing.assert_array_equal([course.prompts(k) for k in range(10)], whole.reshape(10, 3))
    assert course.epochs(10) == 6
