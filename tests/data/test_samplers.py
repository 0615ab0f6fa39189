from collections import Counter

import pytest
import torch

from torchreid_xres.data.samplers import IdentitySampler


def batches(sampler, size):
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return [indices[i : i + size] for i in range(0, len(indices), size)]


PIDS = [0] * 9 + [1] * 4 + [2] + [3] * 6 + [4] * 2


def test_every_batch_is_p_identities_of_k_images():
    sampler = IdentitySampler(PIDS, batch_size=8, num_instances=4)
    for batch in batches(sampler, 8):
        assert sorted(Counter(PIDS[i] for i in batch).values()) == [4, 4]


def brute_force_most(turns, width):
    """Try all ways to fill batches with different identities (tiny inputs only)."""
    from functools import lru_cache
    from itertools import combinations

    @lru_cache(None)
    def most(state):
        live = [i for i, t in enumerate(state) if t]
        options = (tuple(t - (i in chosen) for i, t in enumerate(state)) for chosen in combinations(live, width))
        return max((1 + most(option) for option in options), default=0)

    return most(tuple(turns))


@pytest.mark.parametrize("pids", [PIDS, [0] * 20 + [1, 2], [0] * 8 + [1] * 8 + [2] * 8, list(range(7))])
def test_the_number_of_batches_is_exact_and_the_greatest_possible(pids):
    sampler = IdentitySampler(pids, batch_size=4, num_instances=2)
    assert len(sampler) // 4 == brute_force_most(sampler.turns.values(), 2)
    assert len(batches(sampler, 4)) == len(sampler) // 4


def test_images_do_not_repeat_before_all_of_an_identity_were_seen():
    sampler = IdentitySampler([0] * 8 + [1] * 8, batch_size=4, num_instances=2)
    seen = Counter(sampler)
    assert set(seen.values()) == {1} and len(seen) == 16


def test_an_identity_with_few_images_repeats_them():
    sampler = IdentitySampler([0, 1, 1, 1, 1], batch_size=8, num_instances=4)
    (batch,) = batches(sampler, 8)
    assert Counter(PID for PID in batch if PID == 0) == {0: 4}


def test_a_mix_has_its_share_of_low_images_and_fills_what_lacks():
    pids = [0] * 6 + [1] * 6 + [2] * 4
    low = [True] * 3 + [False] * 3 + [True] * 2 + [False] * 4 + [False] * 4  # identity 2 has no low images
    sampler = IdentitySampler(pids, batch_size=12, num_instances=4, low=low, num_low=2)
    for batch in batches(sampler, 12):
        share = Counter((pids[i], low[i]) for i in batch)
        assert share == {(0, True): 2, (0, False): 2, (1, True): 2, (1, False): 2, (2, False): 4}


def test_the_order_follows_torchs_generator_and_changes_between_epochs():
    sampler = IdentitySampler(PIDS, batch_size=8, num_instances=4)
    torch.manual_seed(3)
    first, second = list(sampler), list(sampler)
    torch.manual_seed(3)
    assert list(sampler) == first and second != first


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"batch_size": 10, "num_instances": 4}, "batch_size 10 is not a multiple of sampler.num_instances 4"),
        ({"batch_size": 64, "num_instances": 4}, "needs 16 identities, the training set has 5"),
        ({"batch_size": 8, "num_instances": 4, "low": [False] * len(PIDS), "num_low": 5}, "num_low 5 is not between"),
    ],
)
def test_impossible_batches_are_refused_with_the_numbers(kwargs, message):
    with pytest.raises(ValueError, match=message):
        IdentitySampler(PIDS, **kwargs)
