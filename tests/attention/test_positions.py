"""Chunk maps: the figures of the papers and of the engines, and what is rejected."""

import pytest
import torch
from oracle import dca_positions

from longctx.attention import ChunkMap

# C=8, w=2 (S=6), cap=8: relative positions of query i to keys 0..i, worked out by hand.
ROWS = {
    8: [8, 7, 6, 5, 4, 3, 2, 1, 0],
    9: [8, 7, 6, 5, 4, 3, 3, 2, 1, 0],
    13: [8, 7, 6, 5, 4, 3, 7, 6, 5, 4, 3, 2, 1, 0],
    19: [8, 7, 6, 5, 4, 3, 8, 7, 6, 5, 4, 3, 7, 6, 5, 4, 3, 2, 1, 0],
}


@pytest.mark.parametrize("i", ROWS)
def test_worked_rows(i: int) -> None:
    chunk_map = ChunkMap(8, 2)
    assert [chunk_map.relative(i, j) for j in range(i + 1)] == ROWS[i]
    assert chunk_map.relative_matrix(20)[i, : i + 1].tolist() == ROWS[i]


@pytest.mark.parametrize(("cap", "value"), [("chunk_size", 8), ("chunk_size-1", 7)])
def test_matrix_equals_the_definition_for_both_caps(cap: str, value: int) -> None:
    matrix = ChunkMap(8, 2, cap).relative_matrix(40)
    assert torch.equal(matrix, dca_positions(40, 8, 2, value))


def test_smaller_cap_lowers_every_clamped_and_inter_cell_by_one() -> None:
    wide, narrow = ChunkMap(8, 2).relative_matrix(40), ChunkMap(8, 2, "chunk_size-1")
    p = torch.arange(40)
    r, c = p % 6, p // 6
    chunks = c[:, None] - c[None, :]
    lowered = (chunks >= 2) | ((chunks == 1) & (r + 6 >= 8)[:, None])
    lowered &= p[:, None] >= p[None, :]
    assert torch.equal(wide - narrow.relative_matrix(40), lowered.long())


@pytest.mark.parametrize(
    ("chunk_size", "local_size"), [(32768, 1024), (262144, 8192), (7168, 1024), (512, 64)]
)
@pytest.mark.parametrize("cap", ["chunk_size", "chunk_size-1"])
def test_no_position_leaves_the_trained_window_and_near_ones_are_true(
    chunk_size: int, local_size: int, cap: str
) -> None:
    chunk_map = ChunkMap(chunk_size, local_size, cap)
    chunk_len = chunk_map.chunk_len
    for i in (0, chunk_len - 1, chunk_len, chunk_size, 2 * chunk_len, 5 * chunk_len + 7):
        for j in {0, i // 2, max(0, i - local_size), max(0, i - 1), i}:
            assert 0 <= chunk_map.relative(i, j) <= chunk_map.max_position
            if i - j < local_size:
                assert chunk_map.relative(i, j) == i - j


@pytest.mark.parametrize("cap", ["chunk_size", "chunk_size-1"])
def test_from_capped_from_on_succ_and_inter_are_one_rotation(cap: str) -> None:
    chunk_map = ChunkMap(64, 16, cap)
    origin = 3 * chunk_map.chunk_len
    for r in range(chunk_map.chunk_len):
        same = chunk_map.q_succ(origin + r) == chunk_map.q_inter
        assert same == (r >= chunk_map.capped_from)


def test_rejected_maps_name_the_values() -> None:
    with pytest.raises(ValueError, match=r"local_size=0 must lie between 0 and chunk_size=8"):
        ChunkMap(8, 0)
    with pytest.raises(ValueError, match=r"local_size=8 must lie between"):
        ChunkMap(8, 8)
    with pytest.raises(ValueError, match=r"cap='window' is unknown"):
        ChunkMap(8, 2, "window")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"S=4.*2S-1=7 is below the cap 8.*at most 3"):
        ChunkMap(8, 4)
    with pytest.raises(ValueError, match="key 3 lies after query 2"):
        ChunkMap(8, 2).relative(2, 3)


@pytest.mark.parametrize("cap", ["chunk_size", "chunk_size-1"])
@pytest.mark.parametrize("chunk_size", range(4, 40))
def test_largest_local_size_in_the_message_works_and_the_next_does_not(
    chunk_size: int, cap: str
) -> None:
    with pytest.raises(ValueError, match="at most") as error:
        ChunkMap(chunk_size, chunk_size - 1, cap)
    largest = int(str(error.value).rsplit("at most ", 1)[1].rstrip(")"))
    assert ChunkMap(chunk_size, largest, cap).local_size == largest
    with pytest.raises(ValueError, match="at most"):
        ChunkMap(chunk_size, largest + 1, cap)


def test_printed_map_shows_its_numbers() -> None:
    lines = str(ChunkMap(8, 2)).splitlines()
    assert lines[0] == "chunk_size 8  local_size 2  chunk_len 6  cap chunk_size (8)"
    assert lines[-1].split("|")[1].split() == [str(x) for x in ROWS[19]]
    assert max(map(len, str(ChunkMap(32768, 1024)).splitlines())) < 160
