"""The header of a JPEG XL code stream (ISO/IEC 18181-1, annex D): what imagecodecs does not tell."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["JxlHeader", "read_header", "with_transfer"]

_SRGB = (1, 13, 0, 1)
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
Bits = tuple[int, int]  # a value is an offset plus as many bits
TRANSFER_BITS = 4
_ALPHA, _UNKNOWN, _OWN, _GREY, _XYB = 0, 2, 2, 1, 2


@dataclass
class JxlHeader:
    """Size as stored, orientation, depth and colours.

    Attributes:
        cicp: Code points of colours; None if an ICC profile describes them.
        gamma: The exponent, where that is stated instead of a known transfer function.
        transfer_at: Bit of the code stream at which the number of a transfer function from 2 to 17 stands, less 2, as
            `TRANSFER_BITS` bits; None if it stands otherwise.
        exact: Whether pixels are stored as they are, not in the lossy format's own colours.
    """

    width: int
    height: int
    orientation: int = 1
    frames: bool = False
    bits: int = 8
    floats: bool = False
    premultiplied: bool = False
    cicp: tuple[int, int, int, int] | None = _SRGB
    exact: bool = False
    gamma: float | None = None
    transfer_at: int | None = None


class _Stream:
    """Bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left, self.place = int.from_bytes(data, "little"), 8 * len(data), 0

    def bits(self, count: int) -> int:
        if count > self.left:
            raise ValueError("the header of a JPEG XL file ends early")
        found = self.value & ((1 << count) - 1)
        self.value >>= count
        self.left -= count
        self.place += count
        return found

    def one_of(self, *choices: Bits) -> int:
        base, count = choices[self.bits(2)]
        return base + self.bits(count)

    def enum(self) -> int:
        return self.one_of((0, 0), (1, 0), (2, 4), (18, 6))


def read_header(codestream: bytes) -> JxlHeader:
    """Read the header at the begin of a code stream.

    Raises:
        ValueError: it is damaged.
    """
    stream = _Stream(codestream[2:1026])
    header = JxlHeader(*_size(stream))
    if stream.bits(1):  # all as usual
        return header
    if stream.bits(1):
        header.orientation = 1 + stream.bits(3)
        if stream.bits(1):
            _size(stream)
        if stream.bits(1):
            raise ValueError("a JPEG XL file with a preview, which is not supported")
        if stream.bits(1):
            header.frames = True
            _animation(stream)
    header.bits, header.floats = _depth(stream)
    stream.bits(1)  # whether 16 bits suffice to decode
    for _ in range(stream.one_of((0, 0), (1, 0), (2, 4), (1, 12))):
        header.premultiplied |= _extra_channel(stream)
    header.exact = not stream.bits(1)
    _colours(stream, header)
    return header


def _size(stream: _Stream) -> tuple[int, int]:
    def side(small: int) -> int:
        return 8 * (1 + stream.bits(5)) if small else stream.one_of((1, 9), (1, 13), (1, 18), (1, 30))

    small = stream.bits(1)
    height = side(small)
    ratio = stream.bits(3)
    if ratio:
        above, below = _RATIOS[ratio]
        return height * above // below, height
    return side(small), height


def _animation(stream: _Stream) -> None:
    stream.one_of((100, 0), (1000, 0), (1, 10), (1, 30))
    stream.one_of((1, 0), (1001, 0), (1, 8), (1, 10))
    stream.one_of((0, 0), (0, 3), (0, 16), (0, 32))
    stream.bits(1)


def _depth(stream: _Stream) -> tuple[int, bool]:
    floats = bool(stream.bits(1))
    if not floats:
        return stream.one_of((8, 0), (10, 0), (12, 0), (1, 6)), False
    bits = stream.one_of((32, 0), (16, 0), (24, 0), (1, 6))
    stream.bits(4)
    return bits, True


def _extra_channel(stream: _Stream) -> bool:
    """Whether a channel is alpha that colours are multiplied by."""
    if stream.bits(1):
        return False
    kind = stream.enum()
    _depth(stream)
    stream.one_of((0, 0), (3, 0), (4, 0), (1, 3))
    stream.bits(8 * stream.one_of((0, 0), (0, 4), (16, 5), (48, 10)))
    if kind == _ALPHA:
        return bool(stream.bits(1))
    if kind == 2:
        stream.bits(64)
    elif kind == 5:
        stream.one_of((1, 0), (0, 2), (3, 4), (19, 8))
    return False


def _colours(stream: _Stream, header: JxlHeader) -> None:
    if stream.bits(1):
        return
    if stream.bits(1):
        header.cicp = None
        return
    space = stream.enum()
    primaries = 1
    if space != _XYB:
        if stream.enum() == _OWN:
            raise ValueError("a JPEG XL file with its own white point, which is not supported")
        if space != _GREY:
            primaries = stream.enum()
            if primaries == _OWN:
                raise ValueError("a JPEG XL file with its own primaries, which is not supported")
    if stream.bits(1):
        header.gamma = stream.bits(24) / 1e7
        header.cicp = primaries, _UNKNOWN, 0, 1
        return
    transfer = stream.enum()
    if 2 <= transfer < 18:
        header.transfer_at = 16 + stream.place - TRANSFER_BITS
    header.cicp = primaries, transfer, 0, 1


def with_transfer(codestream: bytes, transfer: int) -> bytes:
    """A code stream that states another transfer function from 2 to 17, with the same pixels.

    Raises:
        ValueError: it states none that can be replaced.
    """
    place = read_header(codestream).transfer_at
    if place is None:
        raise ValueError("a JPEG XL file without a transfer function that can be replaced")
    length = place // 8 + 2
    value = int.from_bytes(codestream[:length], "little")
    value &= ~(((1 << TRANSFER_BITS) - 1) << place)
    value |= (transfer - 2) << place
    return value.to_bytes(length, "little") + codestream[length:]
