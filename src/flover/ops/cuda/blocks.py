"""What the bytes of a quantized matrix stand for, on registers (quantized.py says how they lie)."""

from __future__ import annotations

import triton
import triton.language as tl

from flover.ops.cuda.launch import INTERPRETED

_VALUES = {
    "iq4": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
    "fp4": (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),  # doubled, as their scale is halved
}


def _word(name: str, first: int) -> int:
    """Four values in the bytes of a number of 32 bits."""
    return int.from_bytes(bytes(value & 255 for value in _VALUES[name][first : first + 4]), "little", signed=True)


IQ4 = tl.constexpr(tuple(_word("iq4", first) for first in (0, 4, 8, 12)))
FP4 = tl.constexpr(tuple(_word("fp4", first) for first in (0, 4, 8, 12)))


@triton.jit
def look_up(q, WORDS: tl.constexpr):
    """The values that numbers of 4 bits stand for."""
    word = tl.where(q < 8, tl.where(q < 4, WORDS[0], WORDS[1]), tl.where(q < 12, WORDS[2], WORDS[3]))
    return (word >> ((q & 3) * 8)).to(tl.int8)


_LOOK_UP = tl.constexpr("""{
    .reg .b32 place, byte, low, high, sign;
    and.b32 place, $1, 0x07070707;
    shr.u32 byte, place, 4;
    or.b32 place, place, byte;
    prmt.b32 place, place, place, 0x0020;  // four numbers of 4 bits, which choose bytes of the first eight values,
    prmt.b32 low, $2, $3, place;
    prmt.b32 high, $4, $5, place;          // and of the last
    shl.b32 sign, $1, 4;
    prmt.b32 sign, sign, sign, 0xba98;     // a byte of ones for a number of 8 or more
    lop3.b32 $0, low, high, sign, 0xd8;
}""")


@triton.jit
def look_up_words(q, WORDS: tl.constexpr):
    """The values that the numbers of 4 bits in the bytes of words stand for, `WORDS` as `blocks.look_up` has them."""
    if INTERPRETED:
        found = q * 0
        for i in tl.static_range(4):
            found = found | ((look_up((q >> (8 * i)) & 15, WORDS).to(tl.int32) & 255) << (8 * i))
    else:
        found = tl.inline_asm_elementwise(
            _LOOK_UP, "=r,r,r,r,r,r", [q, WORDS[0], WORDS[1], WORDS[2], WORDS[3]], dtype=tl.int32, is_pure=True, pack=1
        )
    return found


@triton.jit
def words_of(weight, at, unit, half, out, word, real, stride, FORMAT: tl.constexpr):
    """Numbers of the block `half` of a unit, `zero` not taken off: four in the bytes of each of its eight words.
    Everything is broadcast."""
    if FORMAT.low > 0:
        words = weight.to(tl.pointer_type(tl.int32))
        q = tl.load(words + (unit * stride * 8 + out * 8 + word), real, other=0)
    else:
        q = (out + word) * 0
    if FORMAT.low == 4:
        q = (q >> (half * 4)) & 0x0F0F0F0F
    block = unit * (1 if FORMAT.low == 8 else 2) + half
    planes = (weight + at[0]).to(tl.pointer_type(tl.int32))
    count: tl.constexpr = FORMAT.planes
    for plane in tl.static_range(count):  # Triton 3.6 takes a name alone
        bits = tl.load(planes + ((block * count + plane) * stride + out), real, other=0)
        # Of four bits each comes to the first place of a byte: the product has them seven places apart.
        spread = (((bits >> (word * 4)) & 15) * 0x00204081) & 0x01010101
        q = q | (spread << (FORMAT.low + plane))
    if FORMAT.code == "iq4":
        q = look_up_words(q, IQ4)
    elif FORMAT.code == "fp4":
        q = look_up_words(q, FP4)
    return q


@triton.jit
def bytes_of(words, zero: tl.constexpr, OUTS: tl.constexpr):
    """[outputs, 32] numbers in bytes, less `zero`, of words [outputs, 8]."""
    if zero:
        words = ((words | -0x7F7F7F80) - zero * 0x01010101) ^ -0x7F7F7F80
    even = tl.join(words.to(tl.int8), (words >> 16).to(tl.int8))
    odd = tl.join((words >> 8).to(tl.int8), (words >> 24).to(tl.int8))
    return tl.reshape(tl.join(even, odd), [OUTS, 32])


@triton.jit
def fp8_of(words, OUTS: tl.constexpr):
    """[outputs, 32] numbers in float16 of words [outputs, 8] of e4m3: its bits in the place of a float16's are 2^8 too
    small."""
    even = ((words << 8) & -0x7FFF8000) | ((words << 7) & 0x3F803F80)
    odd = (words & -0x7FFF8000) | ((words >> 1) & 0x3F803F80)
    even = tl.join(even.to(tl.int16), (even >> 16).to(tl.int16))
    odd = tl.join(odd.to(tl.int16), (odd >> 16).to(tl.int16))
    return tl.reshape(tl.join(even, odd), [OUTS, 32]).to(tl.float16, bitcast=True) * 256.0


@triton.jit
def numbers_of(words, FORMAT: tl.constexpr, OUTS: tl.constexpr):
    """[outputs, 32] numbers, `zero` taken off, in bytes (fp8: in float16), of words [outputs, 8] from `words_of`."""
    return fp8_of(words, OUTS) if FORMAT.code == "fp8" else bytes_of(words, FORMAT.zero, OUTS)


@triton.jit
def power_of_two(exponent):
    """Half of 2^(exponent - 127)."""
    bits = tl.where(exponent < 2, 0x00200000 << tl.minimum(exponent, 1), (exponent - 1) << 23)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def scale_of(weight, at, record, unit, half, PART: tl.constexpr, out, real, stride, FORMAT: tl.constexpr):
    """Scale and offset of the inputs of the block `half` of a unit, or of its half PART, and of an output. `record` is
    where the block has its scale."""
    place = record * stride + out
    if FORMAT.scale == "half":
        scale = tl.load((weight + at[1]).to(tl.pointer_type(tl.float16)) + place, real, other=0.0).to(tl.float32)
    elif FORMAT.scale == "exponent":
        scale = power_of_two(tl.load(weight + at[1] + place, real, other=0).to(tl.int32))
    elif FORMAT.scale == "word":
        word = tl.load((weight + at[1]).to(tl.pointer_type(tl.int32)) + place, real, other=0)
        scale = (word & -256).to(tl.float32, bitcast=True)
    else:
        scale = tl.load((weight + at[1]).to(tl.pointer_type(tl.float32)) + place, real, other=0.0)
    if FORMAT.scale == "word":
        offset = -(scale * (word & 255).to(tl.float32))
    elif FORMAT.offset:
        offset = tl.load((weight + at[2]).to(tl.pointer_type(tl.float16)) + place, real, other=0.0).to(tl.float32)
    else:
        offset = scale * 0.0
    if FORMAT.factors != "none":
        words = (weight + at[3]).to(tl.pointer_type(tl.int32))
        word = tl.load(words + (unit * stride + out), real, other=0)
        factor = word >> ((half * FORMAT.parts + PART) * (16 if FORMAT.factors == "both" else 8))
        if FORMAT.factors == "nibbles":
            scale *= (factor & 15).to(tl.float32)
            offset = -(offset * ((factor >> 4) & 15).to(tl.float32))
        elif FORMAT.factors == "both":
            scale *= (factor & 255).to(tl.float32)
            offset = -(offset * ((factor >> 8) & 255).to(tl.float32))
        else:
            scale *= factor.to(tl.int8).to(tl.float32)
    return scale, offset


@triton.jit
def add_sums(total, first, second, x_scale, share, second_share, place, out, real, stride, FORMAT: tl.constexpr):
    """What a block adds to sums [rows, outputs]: `first`, exact sums of its integers, or of its first 16 inputs', then
    `second` of the others', times their scales; and offsets times the shares of the activations [rows]."""
    weight, at, record, unit, half = place
    scale, offset = scale_of(weight, at, record, unit, half, 0, out, real, stride, FORMAT)
    sums = first.to(tl.float32) * scale[None, :]
    if FORMAT.parts == 2:
        second_scale, second_offset = scale_of(weight, at, record, unit, half, 1, out, real, stride, FORMAT)
        sums = tl.fma(second.to(tl.float32), tl.broadcast_to(second_scale[None, :], total.shape), sums)
    total = tl.fma(sums, tl.broadcast_to(x_scale[:, None], total.shape), total)
    if FORMAT.offset or FORMAT.scale == "word":
        total = _add_offset(total, share, offset)
        if FORMAT.parts == 2:
            total = _add_offset(total, second_share, second_offset)
    return total


@triton.jit
def _add_offset(total, share, offset):
    """Sums of activations [rows] times offsets [outputs]."""
    return tl.fma(tl.broadcast_to(share[:, None], total.shape), tl.broadcast_to(offset[None, :], total.shape), total)


@triton.jit
def times_scales(total, weight, at, out, real, stride, x_scale, FORMAT: tl.constexpr):
    """Sums of integers [rows, outputs] whose rows and outputs have a scale each."""
    none = out * 0
    scale, _ = scale_of(weight, at, none, none, 0, 0, out, real, stride, FORMAT)
    return total.to(tl.float32) * (scale[None, :] * x_scale[:, None])
