# SPDX-License-Identifier: GPL-2.0-only
"""Runs LLVM IR with polynomials for bits.

A bit is a polynomial over GF(2) in variables a[i] and b[j] in which no two a's and no two b's are multiplied (algebraic normal
form), or UNKNOWN. Addresses, lengths and conditions of branches must be constants. What the run finds in memory holds for all
values of the variables: each instruction is followed exactly, or gives UNKNOWN, or raises Unsupported.

Monomials are numbered, and a polynomial is the integer whose bits say which it has: 0 is the constant one, then come the a's, the
b's, and the products a[i] b[j]; behind them are names that are multiplied with nothing.
"""

import re

N = 128
UNKNOWN = None
PRODUCTS = 1 + 2 * N
NAMES = PRODUCTS + N * N
_A = ((1 << N) - 1) << 1
_B = _A << N


class Unsupported(Exception):
    """The IR has something that this program does not know, or wants to know a value that is not constant."""


def a(i):
    return 1 << 1 + i


def b(j):
    return 1 << 1 + N + j


def named(number):
    return 1 << NAMES + number


def add(p, q):
    """The sum in GF(2): exclusive or."""
    return UNKNOWN if p is UNKNOWN or q is UNKNOWN else p ^ q


def mul(p, q):
    """The product: and."""
    if p == 0 or q == 0:
        return 0
    if p == 1:
        return q
    if q == 1:
        return p
    if p is UNKNOWN or q is UNKNOWN:
        return UNKNOWN
    if p & 1:
        return mul(p ^ 1, q) ^ q
    if q & 1:
        return mul(p, q ^ 1) ^ p
    if p & ~_A == 0 and q & ~_B == 0:
        return _product(p >> 1, q >> 1 + N)
    if q & ~_A == 0 and p & ~_B == 0:
        return _product(q >> 1, p >> 1 + N)
    raise Unsupported("a product of more than one a and one b")


def _product(left, right):
    out, i = 0, 0
    while left:
        if left & 1:
            out ^= right << PRODUCTS + N * i
        left >>= 1
        i += 1
    return out


def constant(value, width):
    return [value >> i & 1 for i in range(width)]


def number(bits):
    """The value of constant bits."""
    if any(bit not in (0, 1) for bit in bits):
        raise Unsupported("a value that must be constant is not")
    return sum(bit << i for i, bit in enumerate(bits))


def _integer_product(x, y):
    """Integer multiplication. A bit that no carry can reach is the parity of the partial products that belong there: the
    largest value that all lower ones together can have is less than it."""
    width = len(x)
    parity, below, counts = [0] * width, 0, [0] * width
    for i, p in enumerate(x):
        for j, q in enumerate(y):
            if p != 0 and q != 0 and i + j < width:
                parity[i + j] = add(parity[i + j], mul(p, q))
                counts[i + j] += 1
    out = []
    for t in range(width):
        out.append(parity[t] if below < 1 << t else UNKNOWN)
        below += counts[t] << t
    return out


_LABEL = r'(?:"[^"]*"|[-\w.$]+)'
_VALUE = rf'%{_LABEL}'


def _arguments(text):
    """Splits at commas that stand in no brackets."""
    out, depth, start, quoted = [], 0, 0, False
    for at, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif not quoted and char in "([{<":
            depth += 1
        elif not quoted and char in ")]}>":
            depth -= 1
        elif not quoted and char == "," and depth == 0:
            out.append(text[start:at].strip())
            start = at + 1
    return out + ([text[start:].strip()] if text[start:].strip() else [])


class Function:
    """One function: its parameters' names, and its blocks of instructions."""

    def __init__(self, lines):
        head = re.sub(r'"[^"]*"', lambda quoted: quoted[0].replace("(", "_").replace(")", "_"), lines[0])
        inside = head[head.index("(") + 1 : head.rindex(")")]
        self.parameters = [re.search(rf"({_VALUE})$", part)[1] for part in _arguments(inside)]
        self.blocks, label = {}, None
        for line in lines[1:]:
            # A quoted label may hold a semicolon, which begins a comment elsewhere.
            line = line.split(": ")[0].rstrip(":") + ":" if line.startswith('"') else line.split(";")[0].rstrip()
            if not line or line == "}":
                continue
            if not line.startswith(" "):
                label = line.rstrip(":").strip()
                self.blocks[label] = []
                self.first = next(iter(self.blocks))
            else:
                self.blocks[label].append(re.sub(r",? ![\w.]+( !\d+)?", "", line.strip()))


class Module:
    """The functions of an IR file, found by a part of their mangled name."""

    def __init__(self, text):
        self.texts = {}
        lines = text.splitlines()
        for start, line in enumerate(lines):
            if line.startswith("define "):
                name = re.search(r'@("[^"]*"|[\w.$]+)\(', line)[1].strip('"')
                self.texts[name] = lines[start : lines.index("}", start)]

    def find(self, part):
        names = [name for name in self.texts if part in name]
        if len(names) != 1:
            raise Unsupported(f"{len(names)} functions are called {part}")
        return names[0]

    def changed(self, part, edit):
        """The same module with the text of one function edited, for a control."""
        other = Module("")
        other.texts = dict(self.texts)
        name = self.find(part)
        text = "\n".join(self.texts[name])
        new = edit(text)
        if new == text:
            raise Unsupported("a control found nothing to change")
        other.texts[name] = new.split("\n")
        return other


class Memory:
    """Bytes in regions; a pointer is a region's name and an offset."""

    def __init__(self):
        self.bytes = {}

    def store(self, pointer, bits):
        region, offset = pointer
        for i in range(0, len(bits), 8):
            self.bytes[region, offset + i // 8] = bits[i : i + 8]

    def load(self, pointer, width):
        region, offset = pointer
        bits = []
        for i in range(width // 8):
            if (region, offset + i) not in self.bytes:
                raise Unsupported(f"memory that nobody wrote: {region} + {offset + i}")
            bits += self.bytes[region, offset + i]
        return bits


class Machine:
    """Runs functions of a module. `hooks` are called in place of functions, by a part of their name."""

    SIZES = {"i8": 1, "i16": 2, "i32": 4, "i64": 8, "i128": 16}

    def __init__(self, module, hooks=None):
        self.module, self.hooks, self.memory = module, hooks or {}, Memory()
        self.functions, self.frames = {}, 0

    def run(self, part, arguments):
        return self._run(self.module.find(part), arguments)

    def _run(self, name, arguments):
        if name not in self.functions:
            self.functions[name] = Function(self.module.texts[name])
        function = self.functions[name]
        self.frames += 1
        self.frame, values = self.frames, dict(zip(function.parameters, arguments, strict=True))
        before, block = None, function.first
        while True:
            phis = {}
            for line in function.blocks[block]:
                if " = phi " in line:
                    out, rest = line.split(" = phi ")
                    kind, pairs = rest.split(" ", 1)
                    for value, source in re.findall(rf"\[ (\S+|{_VALUE}), %({_LABEL}) \]", pairs):
                        if source == before:
                            phis[out] = self._value(kind, value, values)
            values.update(phis)
            for line in function.blocks[block]:
                if " = phi " in line:
                    continue
                if line.startswith("ret "):
                    return None if line == "ret void" else self._value(*line[4:].rsplit(" ", 1), values)
                if line.startswith("br "):
                    targets = re.findall(rf"label %({_LABEL})", line)
                    if len(targets) == 2:
                        taken = number(self._value("i1", line.split(",")[0].split()[-1], values))
                        targets = targets[:1] if taken else targets[1:]
                    before, block = block, targets[0]
                    break
                self._step(line, values)
            else:
                raise Unsupported("a block without an end")

    def _value(self, kind, text, values):
        kind = kind.split()[-1] if not kind.endswith("]") else kind
        if text.startswith("%"):
            if text not in values:
                raise Unsupported(f"the value {text}")
            return values[text]
        if kind == "i1":
            return constant({"true": 1, "false": 0}[text], 1)
        if re.fullmatch(r"i\d+", kind) and re.fullmatch(r"-?\d+", text):
            return constant(int(text), int(kind[1:]))
        raise Unsupported(f"the operand {kind} {text}")

    def _operand(self, text, values):
        kind, value = re.fullmatch(rf"(i\d+|ptr)\b.*?((?:%{_LABEL}|-?\d+|true|false))", text).groups()
        return self._value(kind, value, values)

    def _step(self, line, values):
        if line.startswith("store "):
            what, where = _arguments(line[6:])[:2]
            self.memory.store(self._operand(where, values), self._operand(what, values))
            return
        call = re.match(rf'(?:({_VALUE}) = )?(?:tail |musttail |notail )?call .*?@("[^"]*"|[\w.$]+)\((.*)\)', line)
        if call:
            result = self._call(call[2].strip('"'), call[3], values)
            if call[1]:
                values[call[1]] = result
            return
        if " = " not in line:
            raise Unsupported(line)
        out, text = line.split(" = ", 1)
        operation, rest = text.split(" ", 1)
        rest = re.sub(r"^((nuw|nsw|nneg|disjoint|exact|inbounds|samesign|volatile) )+", "", rest)
        values[out] = self._compute(operation, rest, values, out)

    def _compute(self, operation, rest, values, out):
        if operation == "alloca":
            return (f"{self.frames} {out}", 0)
        if operation == "load":
            kind, pointer = _arguments(rest)[:2]
            if kind not in self.SIZES:
                raise Unsupported(f"a load of {kind}")
            return self.memory.load(self._operand(pointer, values), 8 * self.SIZES[kind])
        if operation == "getelementptr":
            kind, pointer, *indices = _arguments(re.sub(r"^((inbounds|nuw|nusw) )+", "", rest))
            array = re.fullmatch(r"\[(\d+) x i8\]", kind)
            size = int(array[1]) if array else self.SIZES.get(kind)
            if size is None or len(indices) != 1:
                raise Unsupported(f"an address in {kind}")
            region, offset = self._operand(pointer, values)
            index = self._operand(indices[0], values)
            signed = number(index) - (index[-1] << len(index))
            return (region, offset + size * signed)
        if operation in ("zext", "trunc", "sext"):
            value, width = rest.split(" to i")
            bits, width = self._operand(value, values), int(width)
            top = bits[-1] if operation == "sext" else 0
            return bits[:width] + [top] * (width - len(bits))
        if operation == "icmp":
            condition, rest = rest.split(" ", 1)
            kind, rest = rest.split(" ", 1)
            x, y = (self._value(kind, value, values) for value in _arguments(rest))
            if condition == "slt" and not any(y):
                return [x[-1]]
            if kind == "ptr":
                same = int(x == y)
            else:
                unlike = [bit for bit in map(add, x, y) if bit != 0]
                if unlike and 1 in unlike:
                    same = 0
                elif len(unlike) > 1:
                    raise Unsupported("a comparison of more than one bit")
                else:
                    same = add(1, unlike[0]) if unlike else 1
            if condition not in ("eq", "ne"):
                raise Unsupported(f"the comparison {condition}")
            return [same if condition == "eq" else add(1, same)]
        if operation == "select":
            (condition,), x, y = (self._operand(part, values) for part in _arguments(rest))
            return [add(mul(condition, add(p, q)), q) for p, q in zip(x, y)]
        kind, rest = rest.split(" ", 1)
        x, y = (self._value(kind, value, values) for value in _arguments(rest))
        return self._arithmetic(operation, x, y)

    @staticmethod
    def _arithmetic(operation, x, y):
        width = len(x)
        if operation == "xor":
            return [add(p, q) for p, q in zip(x, y)]
        if operation == "and":
            return [mul(p, q) for p, q in zip(x, y)]
        if operation == "or":
            return [add(add(p, q), mul(p, q)) for p, q in zip(x, y)]
        if operation == "shl":
            by = number(y)
            return [0] * by + x[: width - by]
        if operation == "lshr":
            by = number(y)
            return x[by:] + [0] * by
        if operation == "mul":
            return _integer_product(x, y)
        if operation == "add":
            return constant(number(x) + number(y), width)
        if operation == "sub":
            return constant(number(x) - number(y), width)
        raise Unsupported(f"the operation {operation}")

    def _call(self, name, text, values):
        if re.match(r"llvm\.(lifetime|experimental\.noalias|assume)", name):
            return None
        arguments = [self._operand(part, values) for part in _arguments(text)]
        if name.startswith("llvm.memcpy"):
            to, source, length = arguments[:3]
            self.memory.store(to, self.memory.load(source, 8 * number(length)))
            return None
        if name.startswith("llvm.umin"):
            return constant(min(map(number, arguments)), len(arguments[0]))
        for part, hook in self.hooks.items():
            if part in name:
                return hook(self, *arguments)
        return self._run(name, arguments)
