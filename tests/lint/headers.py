#!/usr/bin/env python3
"""What the comments of the ABI headers promise must be there to be read: who may call a slot from which
thread, who owns a pointer or descriptor, which struct may grow. The marks are defined in <gantry/abi.h>.

    headers.py FILE...            exit 1 and one line for each rule that is broken
    headers.py --refuse FILE...   the opposite, for fixtures: each line with `BAD rule` in it must be
                                  found guilty of that rule, and no other line of anything
"""
import re
import sys

THREADS = ("main", "any", "any; serialised by id", "any; serialised by network id",
           "any; serialised by endpoint id", "call")
MEMORY = ("borrowed", "static")
DESCRIPTOR = ("fd borrowed, CLOEXEC", "fd taken, CLOEXEC")

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
SLOT = re.compile(r"\(\s*\*\s*(\w+)\s*\)\s*\(")


def marks(text):
    return {re.sub(r"[\s*]+", " ", m) for m in re.findall(r"\[([a-zA-Z][^\[\]]*)\]", text)}


def blank(text):
    """Comments out, lines and columns kept."""
    return COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def closing(code, at):
    depth = 0
    for i in range(at, len(code)):
        depth += {"{": 1, "}": -1}.get(code[i], 0)
        if depth == 0:
            return i
    sys.exit("headers: a brace is never closed")


def members(code, begin, end):
    """(from, to) of each member; a nested union is one member."""
    at, depth = begin, 0
    for i in range(begin, end):
        depth += {"{": 1, "}": -1, "(": 1, ")": -1}.get(code[i], 0)
        if code[i] == ";" and depth == 0:
            yield at, i
            at = i + 1


def comment_before(text, at):
    """The comment that ends right before `at`, or ""."""
    last = None
    for m in COMMENT.finditer(text, 0, at):
        last = m
    return last.group() if last and not text[last.end():at].strip() else ""


def lint(path):
    with open(path) as f:
        text = f.read()
    # Macro bodies are not declarations.
    text = re.sub(r"^#.*(?:\\\n.*)*", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.M)
    code, found, structs = blank(text), [], 0

    def report(at, rule, words):
        found.append((text.count("\n", 0, at) + 1, rule, words))

    for head in re.finditer(r"\b(?:typedef\s+)?struct\s+(\w+)\s*\{", code):
        name, structs = head.group(1), structs + 1
        begin, end = head.end(), closing(code, head.end() - 1)
        whole = marks(comment_before(text, head.start()))
        first = True
        for a, b in members(code, begin, end):
            # A member's comment stands before it, or behind it on its last line.
            line_end = text.find("\n", b)
            behind = text[b:line_end if text.find("/*", b, line_end) < 0 else text.find("*/", b) + 2]
            said = text[a:b] if not first else text[begin:b]
            said = said.split("\n", 1)[-1] if not first and "\n" in said else said
            own = marks(" ".join(COMMENT.findall(said) + COMMENT.findall(behind)))
            lead = len(code[a:b]) - len(code[a:b].lstrip())
            at, declaration = a + lead, " ".join(code[a:b].split())
            if first and declaration != "uint32_t struct_size" and "frozen" not in whole:
                report(at, "size", f"{name} neither begins with struct_size nor is [frozen]")
            first = False
            slot = SLOT.search(declaration)
            if slot:
                tags = [m for m in own if re.match(r"(main|any|call|init|thread)\b", m)]
                if len(tags) != 1 or tags[0] not in THREADS:
                    said = "the unknown tag [" + "], [".join(tags) + "]" if tags else "no thread tag"
                    report(at, "thread", f"{name}.{slot.group(1)} has {said}; known: [{'], ['.join(THREADS)}]")
                if re.search(r"\w\s*\*\s*\*\s*(?!const)\w", declaration[slot.end():]) and "handle" not in own:
                    report(at, "owner", f"{name}.{slot.group(1)} hands out a pointer that is no [handle]")
            elif re.search(r"\b\w*fd\b", declaration):
                if not own & set(DESCRIPTOR):
                    report(at, "fd", f"{name}: '{declaration}' does not say [{'] or ['.join(DESCRIPTOR)}]")
            elif "*" in declaration and declaration not in ("void *ctx", "const void *table"):
                if not (own | whole) & set(MEMORY):
                    report(at, "owner", f"{name}: '{declaration}' does not say [{'] or ['.join(MEMORY)}]")
    return structs, found


def main():
    refuse = sys.argv[1:2] == ["--refuse"]
    files, wrong, structs = sys.argv[2 if refuse else 1:], 0, 0
    for path in files:
        n, found = lint(path)
        structs += n
        if not refuse:
            for line, rule, words in found:
                print(f"{path}:{line}: {words} ({rule})")
            wrong += len(found)
            continue
        with open(path) as f:
            expected = {(i, m) for i, line in enumerate(f, 1) for m in re.findall(r"BAD (\w+)", line)}
        got = {(line, rule) for line, rule, _ in found}
        for line, rule in sorted(expected - got):
            print(f"{path}:{line}: the lint did not see the broken rule '{rule}'")
        for line, rule in sorted(got - expected):
            print(f"{path}:{line}: the lint claims a broken rule '{rule}' where none is")
        wrong += len(expected ^ got) + (0 if expected else 1)
    if not structs:
        sys.exit("headers: no struct found; the lint sees nothing")
    print(f"headers: {structs} structs in {len(files)} files, {wrong} complaints")
    sys.exit(1 if wrong else 0)


main()
