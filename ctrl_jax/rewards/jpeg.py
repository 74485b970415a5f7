r"""The size of pictures as JPEG files, on the device: a reward of the diffusion-RL literature.

What libjpeg and Pillow do by default is followed step by step. RGB becomes a luma and two chroma
planes; the chroma planes are halved (4:2:0); each plane is cut into blocks of 8 x 8, of which the
cosine transform c is divided by the table q of the quality and rounded,

    k_uv = round(c_uv / q_uv),   q = clip(floor((s q_50 + 50) / 100), 1, 255),                 (1)

s = floor(5000 / quality) below 50, else 200 - 2 quality. In zigzag order the first number of a
block (as difference to the block before) and each nonzero one after it (with the number r of zeros
before it) are written by a Huffman code and by its own n = floor(log2 |k|) + 1 bits,

    bits = \sum_blocks [code(n_0) + n_0 + \sum_{k != 0} (code(r mod 16, n) + n + 11 or 10 for every
           16 zeros) + code(end) unless the last number is nonzero].                           (2)

The codes are those of the standard's Annex K, so (2) is exact up to the rounding of c; for the
byte 0 that follows every byte 255 in a file, a factor of 1.004 stands. Rounding has no derivative;
`soft_jpeg_size` has one.
Source: ITU-T T.81 (1992); as a reward Black et al. 2305.13301.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import check_count
from ctrl_jax.rewards.pictures import as_bytes, read_pictures, whole

HEADER = 625  # bytes of tables and sizes, and of the end
STUFFED = 1.004


class Code(NamedTuple):
    """What is standard of a kind of plane.

    Fields:
        table: divisors of quality 50, row by row.
        first: bits of the code of n for the first number of a block.
        rest: by bits, the codes "rn" in hexadecimal of the other numbers; 16 for those not named.
    """

    table: tuple[int, ...]
    first: tuple[int, ...]
    rest: dict[int, str]

    def lengths(self) -> np.ndarray:
        """Return the bits of the code (r, n), shape (16, 11)."""
        found = np.full((16, 11), 16)
        for bits, codes in self.rest.items():
            for code in codes.split():
                found[int(code[0], 16), int(code[1], 16)] = bits
        return found


LUMA = Code(
    table=(
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    ),
    first=(2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9),
    rest={
        2: "01 02",
        3: "03",
        4: "00 04 11",
        5: "05 12 21",
        6: "31 41",
        7: "06 13 51 61",
        8: "07 22 71",
        9: "14 32 81 91 a1",
        10: "08 23 42 b1 c1",
        11: "15 52 d1 f0",
        12: "24 33 62 72",
        15: "82",
    },
)
CHROMA = Code(
    table=(
        *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
        *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
        *(99,) * 32,
    ),
    first=(2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
    rest={
        2: "00 01",
        3: "02",
        4: "03 11",
        5: "04 05 21 31",
        6: "06 12 41 51",
        7: "07 61 71",
        8: "13 22 32 81",
        9: "08 14 42 91 a1 b1 c1",
        10: "09 23 33 52 f0",
        11: "15 62 72 d1",
        12: "0a 16 24 34",
        14: "e1",
        15: "25 f1",
    },
)


class Plane(NamedTuple):
    """The blocks of one of the three planes, in the order of the file.

    Fields:
        numbers: c / q of (1), not rounded, in zigzag order, (batch, blocks, 64).
        code: of its kind.
        empty: blocks beside them that only fill up, each without a number of its own.
    """

    numbers: Float[Array, "batch blocks 64"]
    code: Code
    empty: int


def jpeg_size(pictures: Float[Array, "batch h w 3"], quality: int = 95) -> Float[Array, " batch"]:
    r"""Return the size of pictures as JPEG files of Pillow, in kilobytes of 1000 bytes.

        (1.004 ceil(bits / 8) + 625) / 1000,

    with 1.004 for the byte 0 after every byte 255 in a file, and 625 bytes of tables and sizes.
    What libjpeg and Pillow do by default is followed: the luma, and chroma planes of half the size,
    are cut into blocks of 8 x 8, and the cosine transform of each is divided by the table of the
    quality and rounded to numbers k_0 .. k_63, in zigzag order. bits is the sum over all blocks of
    the planes of

        code(n_0) + n_0 + \sum_{i > 0, k_i != 0} [code(r_i mod 16, n_i) + n_i
                                                  + floor(r_i / 16) code(15, 0)] + code(end).

    code is the length of a Huffman code of the standard's Annex K. n_i = floor(log2 |k_i|) + 1, or
    0 of k_i = 0, is the number of bits of k_i; n_0 is that of k_0 less the k_0 of the block before.
    r_i is the number of zeros right before k_i, without k_0; code(15, 0) stands for 16 of them, and
    code(end) falls away where k_63 is not zero.

    Args:
        pictures: in [0, 1]; what lies beyond is cut.
        quality: from 1 to 100, as in Pillow; 95 in the literature.

    Returns:
        Within half a percent of ``Image.save(file, "JPEG", quality=quality)`` for most photographs,
        three percent for one with many bytes of 255; shape (batch,), NaN of pictures that hold one.
        Its derivative is 0.

    Raises:
        ValueError: `pictures` are none, or there is no such quality.

    Source: ITU-T T.81 (1992); as a reward Black et al. 2305.13301.
    """
    luma, blue, red = map(_bits, _planes(pictures, quality))
    bits = luma + blue + red
    size = (jnp.ceil(bits / 8) * STUFFED + HEADER) / 1000
    return jax.lax.stop_gradient(jnp.where(jnp.isnan(pictures).any((1, 2, 3)), jnp.nan, size))


def soft_jpeg_size(
    pictures: Float[Array, "batch h w 3"], quality: int = 95
) -> Float[Array, " batch"]:
    r"""Return an estimate of `jpeg_size` that has a derivative, in kilobytes of 1000 bytes.

    A block is estimated as 4.7 + \sum 1.15 log2(1 + 4 k^2) bits, with k the 64 numbers that would
    be rounded. Over photographs with and without noise at qualities from 10 to 99 it is off by a
    tenth of the size (root mean square), and the two logarithms correlate by .97 or more at each
    quality. The derivative passes through the rounding of pixels as if it were not there.

    Args:
        pictures: in [0, 1]; what lies beyond is cut.
        quality: from 1 to 100, as in Pillow.

    Returns:
        Shape (batch,).

    Raises:
        ValueError: `pictures` are none, or there is no such quality.
    """
    luma, blue, red = map(_soft_bits, _planes(pictures, quality))
    return ((luma + blue + red) / 8 + HEADER) / 1000


def _planes(pictures: Array, quality: int) -> list[Plane]:
    """Luma and chroma of pictures, divided by the tables of a quality."""
    check_count("quality", quality, most=100)
    levels = 255.0 * as_bytes(read_pictures("pictures", pictures))
    red, green, blue = (levels[..., i] for i in range(3))
    luma = whole(0.299 * red + 0.587 * green + 0.114 * blue) - 128.0
    chroma = [
        whole(0.5 * blue - 0.168735892 * red - 0.331264108 * green + 128.0) - 128.0,
        whole(0.5 * red - 0.418687589 * green - 0.081312411 * blue + 128.0) - 128.0,
    ]
    order, empty = _order(*(-(-side // 8) for side in luma.shape[1:]))
    planes = [Plane(_numbers(_filled(luma, 8, 8), LUMA, quality)[:, order], LUMA, empty)]
    for plane in map(_halved, chroma):
        planes.append(Plane(_numbers(plane, CHROMA, quality), CHROMA, 0))
    return planes


def _filled(plane: Float[Array, "batch h w"], rows: int, columns: int) -> Float[Array, "batch H W"]:
    """The plane with its last row and column repeated up to a multiple of a block."""
    height, width = plane.shape[1:]
    return jnp.pad(plane, ((0, 0), (0, -height % rows), (0, -width % columns)), mode="edge")


def _halved(plane: Float[Array, "batch h w"]) -> Float[Array, "batch H W"]:
    """Means of 2 x 2, rounded down and up in turn; rows are filled up after, columns before."""
    plane = _filled(plane, 2, 16)
    batch, height, width = plane.shape
    sums = plane.reshape(batch, height // 2, 2, width // 2, 2).sum(axis=(2, 4))
    turn = jnp.asarray(1 + np.arange(width // 2) % 2, plane.dtype)
    quarter = sums / 4
    rounded = jnp.floor((sums + turn[None, None, :]) / 4)
    return _filled(quarter + jax.lax.stop_gradient(rounded - quarter), 8, 8)


def _numbers(plane: Float[Array, "batch h w"], code: Code, quality: int) -> Float[Array, "b n 64"]:
    """The quotients of (1), block by block."""
    batch, height, width = plane.shape
    blocks = plane.reshape(batch, height // 8, 8, width // 8, 8)
    basis = jnp.asarray(_cosines(), plane.dtype)
    numbers = jnp.einsum("ui,vj,bhiwj->bhwuv", basis, basis, blocks, precision="highest")
    eighths = jnp.floor(8.0 * numbers + 0.5) / 8.0  # what libjpeg's whole numbers can say
    numbers += jax.lax.stop_gradient(eighths - numbers)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = np.clip((np.array(code.table) * scale + 50) // 100, 1, 255)
    numbers = (
        numbers.reshape(batch, height * width // 64, 64)
        / jnp.asarray(table, plane.dtype)[None, None]
    )
    return numbers[..., _zigzag()]


def _cosines() -> np.ndarray:
    k, i = np.arange(8)[:, None], np.arange(8)[None, :]
    return np.sqrt(np.where(k == 0, 1 / 8, 1 / 4)) * np.cos((2 * i + 1) * k * np.pi / 16)


def _zigzag() -> np.ndarray:
    def place(i: int) -> tuple[int, int]:
        row, column = divmod(i, 8)
        return row + column, row if (row + column) % 2 else column

    return np.array(sorted(range(64), key=place))


def _order(rows: int, columns: int) -> tuple[np.ndarray, int]:
    """The order of blocks of luma, two by two, and how many are missing of the last of these."""
    index = np.full((rows + rows % 2, columns + columns % 2), -1)
    index[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    squares = index.reshape(index.shape[0] // 2, 2, index.shape[1] // 2, 2).swapaxes(1, 2).ravel()
    return squares[squares >= 0], int((squares < 0).sum())


def _soft_bits(plane: Plane) -> Float[Array, " batch"]:
    """The estimate of `soft_jpeg_size` for a plane."""
    numbers = plane.numbers.at[..., 0].set(_differences(plane.numbers[..., 0]))
    blocks = numbers.shape[1] + plane.empty
    return 4.7 * blocks + 1.15 * jnp.sum(jnp.log2(1 + 4 * numbers**2), axis=(1, 2))


def _bits(plane: Plane) -> Float[Array, " batch"]:
    """The sum (2) of a plane."""
    rounded = jnp.sign(plane.numbers) * jnp.floor(jnp.abs(plane.numbers) + 0.5)
    numbers, lengths = rounded.astype(jnp.int32), plane.code.lengths()
    size = _size(_differences(numbers[..., 0]), 11)
    bits = jnp.sum(size + jnp.asarray(plane.code.first)[size], axis=1)
    rest = numbers[..., 1:]
    places = jnp.broadcast_to(jnp.arange(1, 64), rest.shape)
    before = jax.lax.cummax(jnp.where(rest != 0, places, 0), axis=2)
    zeros = places - 1 - jnp.pad(before[..., :-1], ((0, 0), (0, 0), (1, 0)))
    size = _size(rest, 10)
    each = size + jnp.asarray(lengths)[zeros % 16, size] + zeros // 16 * int(lengths[15, 0])
    bits += jnp.sum(jnp.where(rest != 0, each, 0), axis=(1, 2))
    end = int(lengths[0, 0])
    bits += end * jnp.sum(rest[..., -1] == 0, axis=1)
    return (bits + plane.empty * (plane.code.first[0] + end)).astype(plane.numbers.dtype)


def _size(numbers: Int[Array, "..."], most: int) -> Int[Array, "..."]:
    """The bits of whole numbers, 0 of 0."""
    return jnp.minimum(32 - jax.lax.clz(jnp.abs(numbers)), most)


def _differences(firsts: Array) -> Array:
    """Each number less the one before it, the first as it is."""
    return jnp.diff(firsts, axis=1, prepend=jnp.zeros_like(firsts[:, :1]))
