"""Where real tokens lie: masks, caches, positions."""

import pytest
import torch

from longctx.attention.padding import RowGroup, read_padding

CPU = torch.device("cpu")


def padding(mask, columns, past=0, positions=None):
    mask_BM = None if mask is None else torch.tensor(mask)
    position_ids = None if positions is None else torch.tensor(positions)
    batch = len(mask) if mask is not None else len(positions) if positions else 2
    return read_padding(batch, columns, past, mask_BM, position_ids, CPU)


@pytest.mark.parametrize("mask", [None, [[1] * 7] * 2])
def test_without_padding_all_rows_are_one_group(mask) -> None:
    got = padding(mask, 4, past=3)
    assert got.groups == (RowGroup(slice(0, 2), slice(0, 4), (slice(0, 7),), 3, 4),)
    assert got.position_ids_BL.tolist() == [[3, 4, 5, 6]]
    assert got.lengths == (7, 7) and not got.padded


def test_left_right_and_interior_padding() -> None:
    got = padding([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], 5)
    left, right, interior, full = got.groups
    assert (left.queries, left.keys, left.start, left.length) == (slice(2, 5), (slice(2, 5),), 0, 3)
    assert (right.queries, right.keys, right.length) == (slice(0, 3), (slice(0, 3),), 3)
    assert interior.queries == (0, 2, 4)
    assert interior.keys == (slice(0, 1), slice(2, 3), slice(4, 5))
    assert full == RowGroup(slice(3, 4), slice(0, 5), (slice(0, 5),), 0, 5)
    assert got.position_ids_BL.tolist() == [
        [0, 0, 0, 1, 2],
        [0, 1, 2, 0, 0],
        [0, 0, 1, 0, 2],
        [0, 1, 2, 3, 4],
    ]
    assert got.lengths == (3, 3, 3, 5) and got.padded


def test_decode_after_padding_continues_each_row() -> None:
    got = padding([[0, 0, 1, 1, 1], [1, 1, 0, 0, 1]], 1, past=4)
    assert [g.start for g in got.groups] == [2, 2]
    assert got.groups[0].keys == (slice(2, 5),)
    assert got.groups[1].keys == (slice(0, 2), slice(4, 5))
    assert got.position_ids_BL.tolist() == [[2], [2]]


def test_equal_neighbours_share_a_group_and_empty_rows_have_none() -> None:
    got = padding([[0, 1, 1], [0, 1, 1], [1, 1, 0]], 1, past=2)
    assert [(g.rows, g.length) for g in got.groups] == [(slice(0, 2), 1)]
    assert got.lengths == (2, 2, 2)


def test_mask_longer_than_the_tokens_must_be_zero_there() -> None:
    assert padding([[1, 1, 1, 0, 0]], 3).groups[0].keys == (slice(0, 3),)
    with pytest.raises(ValueError, match=r"shape \(1, 5\), expected \(1, 3\)"):
        padding([[1, 1, 1, 0, 1]], 3)
    with pytest.raises(ValueError, match=r"shape \(1, 2\), expected \(1, 3\)"):
        padding([[1, 1]], 3)


def test_four_dimensional_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 1, 3, 3\).*2-D padding mask"):
        read_padding(1, 3, 0, torch.ones(1, 1, 3, 3), None, CPU)


def test_positions_may_only_repeat_what_is_known() -> None:
    padding(None, 3, past=2, positions=[[2, 3, 4]])
    with pytest.raises(ValueError, match=r"give 0 at column 2 where the sequence is at 2.*packed"):
        padding(None, 4, positions=[[0, 1, 0, 1]])
    with pytest.raises(ValueError, match="give 5 at column 0 where the sequence is at 0"):
        padding(None, 2, positions=[[5, 6]])
    with pytest.raises(ValueError, match=r"position_ids have shape \(1, 3\), expected \(batch, 2"):
        padding(None, 2, positions=[[0, 1, 2]])
    # A row may be shifted as a whole: arange over left padding is what models do by default.
    padding([[0, 0, 1, 1]], 4, positions=[[0, 1, 2, 3]])
    with pytest.raises(ValueError, match="position_ids of row 0 do not follow its attention_mask"):
        padding([[1, 0, 1, 1]], 4, positions=[[0, 1, 2, 3]])
