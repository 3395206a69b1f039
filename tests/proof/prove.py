# SPDX-License-Identifier: GPL-2.0-only
"""POLYVAL and XCTR of the portable page cipher are what they should be, for all inputs.

What is proved about is the LLVM IR that rustc makes of vmcrypt-core (its path is the argument). `ir.py` runs it with polynomials
for bits. What should come out is computed here, by other means: sympy's arithmetic of polynomials for POLYVAL's field, z3's
bit-vectors for XCTR. Each control is the same proof about IR with one change, and must fail.
"""

import re
import sys
import time

import sympy
import z3

import ir

N = ir.N
HASH, SET, DOT = "7polyval7HashKey4hash", "7polyval7HashKey3set", "7polyval3dot"
XCTR, AES = "14xctr_then_hash", "6AesKey8encrypt4"
POWERS = 32


def field():
    """x^(k - 128) for k from 0 to 254, as numbers, in RFC 8452's field."""
    x = sympy.Symbol("x")
    poly = lambda expression: sympy.Poly(expression, x, modulus=2)
    modulus = poly(x**128 + x**127 + x**126 + x**121 + 1)
    # Rabin's test: x^(2^128) = x, and x^(2^64) - x has no factor in common with the modulus (128 is a power of two).
    power, halfway = poly(x), None
    for i in range(N):
        power = (power * power).rem(modulus)
        halfway = power if i == N // 2 - 1 else halfway
    require(power == poly(x) and sympy.gcd(halfway - poly(x), modulus).is_one, "the modulus is irreducible")
    inverse = poly(x**128).rem(modulus).invert(modulus)
    require(inverse == poly(x**127 + x**124 + x**121 + x**114 + 1), "x^-128 is what RFC 8452 says")
    powers, power = [], inverse
    for _ in range(2 * N - 1):
        powers.append(sum(1 << degree for (degree,), c in power.terms() if c % 2))
        power = (power * poly(x)).rem(modulus)
    return powers


def product(powers, left):
    """The bits of left * b * x^-128, where left has so many variables a, and a constant."""
    bits = [0] * N
    for i, form in enumerate(left):
        for j in range(N):
            term = ir.mul(form & ~1, ir.b(j)) ^ (ir.b(j) if form & 1 else 0)
            for k in range(N):
                if powers[i + j] >> k & 1:
                    bits[k] ^= term
    return bits


class Refuted(Exception):
    """A claim is wrong."""


def require(condition, what):
    if not condition:
        raise Refuted(what)


def polyval(module, expected):
    """One block is absorbed: acc becomes (acc + block) h x^-128."""
    machine = ir.Machine(module)
    machine.memory.store(("key", 16 * (POWERS - 1)), [ir.b(j) for j in range(N)])
    machine.memory.store(("acc", 0), [ir.a(i) for i in range(N)])
    machine.memory.store(("block", 0), ir.constant(BLOCK, N))
    machine.run(HASH, [("key", 0), ("acc", 0), ("block", 0), ir.constant(1, 64)])
    require(machine.memory.load(("acc", 0), N) == expected, "a block is absorbed")


# Any: what it is multiplied with is all of b.
BLOCK = 0x0123456789ABCDEFFEDCBA9876543210 ^ 1 << 127


def powers_of_the_key(module):
    """Each power stored is the product of the one before and the key, the highest first."""
    name = lambda power: [ir.named(N * power + i) for i in range(N)]
    made = [1]

    def dot(machine, out, low, high, *other):
        require(low + high == name(made[-1]) and other[0] + other[1] == name(1), "a power times the key")
        made.append(made[-1] + 1)
        machine.memory.store(out, name(made[-1]))

    machine = ir.Machine(module, {DOT: dot})
    machine.memory.store(("h", 0), name(1))
    machine.run(SET, [("key", 0), ("h", 0)])
    for at in range(POWERS):
        require(machine.memory.load(("key", 16 * at), N) == name(POWERS - at), "the powers' order")


def xctr(module, counts):
    """Block i of a message gets E(S ^ i), and block 0 nothing: with the identity for E and zeros for the message, S ^ i."""
    start = z3.BitVec("S", N)
    for count in counts:
        nothing = lambda machine, out, *_: machine.memory.store(out, [0] * N)
        machine = ir.Machine(module, {DOT: nothing, AES: lambda *_: None})
        machine.memory.store(("start", 0), [ir.a(i) for i in range(N)])
        for name, size in (("acc", 16), ("hash", 512), ("blocks", 16 * count)):
            machine.memory.store((name, 0), [0] * 8 * size)
        pointers = [(name, 0) for name in ("self", "cipher", "hash", "start", "acc", "blocks")]
        machine.run(XCTR, [*pointers, ir.constant(count, 64)])
        require(machine.memory.load(("blocks", 0), N) == [0] * N, "block 0 stays as it is")
        stream = [expression(machine.memory.load(("blocks", 16 * i), N), start) for i in range(1, count)]
        always(z3.And(*[block == start ^ z3.BitVecVal(i, N) for i, block in enumerate(stream, 1)]), f"{count} blocks")


def expression(bits, start):
    """Bits that are linear in the variables a, over the bit-vector that those are."""
    out = []
    for bit in bits:
        require(bit is not ir.UNKNOWN and bit < ir.b(0), "counter blocks are linear in S")
        value, rest = z3.BitVecVal(bit & 1, 1), bit >> 1
        while rest:
            i = (rest & -rest).bit_length() - 1
            value, rest = value ^ z3.Extract(i, i, start), rest & rest - 1
        out.append(value)
    return z3.simplify(z3.Concat(*reversed(out)))


def always(claim, what):
    solver = z3.Solver()
    solver.add(z3.Not(claim))
    require(solver.check() == z3.unsat, what)


def distinct():
    """Two counter blocks of a page are unlike."""
    s, i, j = z3.BitVecs("S i j", N)
    always(z3.Implies(z3.And(z3.ULT(i, 256), z3.ULT(j, 256), i != j), s ^ i != s ^ j), "counter blocks differ")


def main():
    with open(sys.argv[1], encoding="ascii", errors="replace") as file:
        module = ir.Module(file.read())
    powers = field()
    left = [ir.a(i) ^ (BLOCK >> i & 1) for i in range(N)]
    expected = product(powers, left)
    # Every rest of a group, and a page.
    counts = [1, 2, 3, 4, 5, 6, 9, 256]
    passed = failed = 0

    def judge(name, proof, *arguments, control=False):
        nonlocal passed, failed
        begin, refuted, why = time.monotonic(), False, "it was not noticed"
        try:
            proof(*arguments)
        except Refuted as error:
            refuted, why = True, f"it is not so that {error}"
        except ir.Unsupported as error:
            refuted, why = not control, f"not known here: {error}"
        good = refuted == control
        passed, failed = passed + good, failed + (not good)
        text = f"{name} is noticed" if control else name
        text = text if good else f"{name}: {why}"
        print(f"{'  ok' if good else 'FAIL'}  {text} ({time.monotonic() - begin:.1f} s)", flush=True)

    def control(name, proof, part, pattern, change, *arguments):
        edit = lambda text: re.sub(pattern, change, text, count=1)
        judge(f"control: {name}", proof, module.changed(part, edit), *arguments, control=True)

    one_more = lambda match: match[1] + str(int(match[2]) + 1)
    judge("POLYVAL absorbs a block, all accumulators and keys", polyval, module, expected)
    judge("the powers of POLYVAL's key", powers_of_the_key, module)
    judge("XCTR's stream, all S, up to a page", xctr, module, counts)
    judge("XCTR's counter blocks differ, all S", distinct)
    control("a shift of the reduction", polyval, DOT, r"(= shl i64 %[-\w.]+, )(57)", one_more, expected)
    filled = lambda match: match[1] + "-1"
    control("a hole that is filled", polyval, DOT, r"(= and i64 %[-\w.]+, )(1229782938247303441)", filled, expected)
    control("the key's other half", polyval, HASH, r"(i64 )(504)\b", lambda match: match[1] + "496", expected)
    control("a power too far", powers_of_the_key, SET, r"(i64 )(-16)\b", lambda match: match[1] + "-32")
    control("a counter that skips", xctr, XCTR, r"(= add i128 %[-\w.]+, )(4)\b", one_more, [9])
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
