"""Numbers in prose: each is in the chapter's outputs or code, is computed here, or has a reason.

tests/prose.json holds them, with a hash of the formulas that stand in a line: a number that is changed,
or new, is not in it, and asks for a second look.
The outputs could be pasted into the text instead (glue); but then a notebook that is read on GitHub, in
Jupyter or as text has a hole where the number should be. `python tests/test_prose.py` brings the file
up to date and writes "?" where somebody has to say where a number comes from.
"""

import json
import math
import re
import sys
from hashlib import sha256
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("prose.json")
CHAPTERS = {
    path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "chapters").glob("*.ipynb"))
}
FENCE = re.compile(r"\s*(```+|:::+)(.*)")
# what is neither prose nor a formula in a line
ELSEWHERE = re.compile(
    r"\$\$.*?\$\$(?:\s*\([\w-]+\))?"  # displays, which test_printed.py reads
    r"|\{[\w:-]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|https?://\S+|<!--.*?-->",  # roles, code, addresses
    re.DOTALL,
)
FORMULA = re.compile(r"\$[^$]+\$")
NUMBER = re.compile(
    r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+(?=\s?(?:%|percent))|\d{2,})(?!\w|,\d{3}|\.\d)"
)
UNIT = re.compile(r"\s?(?:%|percentage points|percent)")
WORD = re.compile(r"[\s-]*([^\W\d_]+)?")


def without_code(text):
    """A text cell without fences, their options, and what stands in those that are no directives."""
    inside, lines = [], []
    for line in text.splitlines():
        if fence := FENCE.match(line):
            if fence[2].strip():
                inside.append(fence[2].startswith("{"))
            elif inside and not fence[2]:
                inside.pop()
            else:
                inside.append(False)
        elif all(inside) and not re.match(r"\s*:[\w-]+:", line):
            lines.append(line)
    return "\n".join(lines)


def texts(notebook):
    """The notebook's text cells without what is neither prose nor a formula in a line."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return [ELSEWHERE.sub(" ", without_code(text)) for text in cells]


def numbers(text):
    """Each number of the prose with what it counts: decimals, percentages, all of two digits or more."""
    prose = FORMULA.sub(lambda match: " ".join(re.findall(r"(?<![\d.])\d*\.\d+", match[0])), text)
    for match in NUMBER.finditer(prose):
        unit = UNIT.match(prose, match.end())
        if unit:
            yield f"{match[0]} percent"
        else:
            yield f"{match[0]} {WORD.match(prose, match.end())[1] or ''}".strip()


def formulas(notebook):
    """{heading: a hash of the formulas below it that stand in a line and have a digit}."""
    heading, found = "", {}
    for text in texts(notebook):
        for line in text.splitlines():
            if line.startswith("#"):
                heading = line.strip("# ")
            for formula in FORMULA.findall(line):
                if re.search(r"\d", formula):
                    found.setdefault(heading, []).append(re.sub(r"\s|\\[,;!]|\\[bB]igg?", "", formula))
    return {title: sha256("\n".join(lines).encode()).hexdigest()[:10] for title, lines in found.items()}


def outputs_of(notebook):
    """What the cells printed and displayed as text."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            shown += [output.get("text", ""), *(data.get(f"text/{kind}", "") for kind in ("plain", "html"))]
    return "\n".join(map(str, shown))


def code_of(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def ways_to_write(phrase):
    """A number as outputs or code may have it."""
    number = phrase.split()[0]
    plain = number.replace(",", "")
    ways = {number, plain, f"{int(plain):_}" if plain.isdigit() else plain}
    ways |= {plain.lstrip("0"), f"0{plain}"} if plain.lstrip("0").startswith(".") else set()
    if phrase.endswith(" percent"):
        part = f"{float(plain) / 100:.10f}".rstrip("0")
        ways = {f"{plain}%", f"{plain} %", f"{plain} percent", part, part.lstrip("0")}
    return ways


def stands_in(phrase, text):
    return any(re.search(rf"(?<![\w.]){re.escape(way)}(?!\d|\.\d)", text) for way in ways_to_write(phrase))


def source_problem(phrase, source, notebook):
    """What is wrong with the place that a number is said to come from."""
    if source == "?":
        return 'has no source: write "output", "code", "= an expression" or the reason'
    if source.startswith("="):
        value, number = eval(source[1:].strip(), {"math": math}), phrase.split()[0].replace(",", "")
        if (
            f"{value:.{len(number.partition('.')[2])}f}"
            != f"{float(number):.{len(number.partition('.')[2])}f}"
        ):
            return f"is {value:.6g} by {source}"
    if source == "output" and not stands_in(phrase, outputs_of(notebook)):
        return "is in no output of the chapter any more"
    if source == "code" and not stands_in(phrase, code_of(notebook)):
        return "is not in the chapter's code any more"
    return None


def problems(notebook, known):
    """Numbers nobody has looked at, sources that do not hold, formulas that have changed."""
    said = {phrase for text in texts(notebook) for phrase in numbers(text)}
    for phrase in sorted(said - known["numbers"].keys()):
        yield f"{phrase!r} is new: look where it comes from, then run python tests/test_prose.py"
    for phrase in sorted(known["numbers"].keys() - said):
        yield f"{phrase!r} is no longer said: run python tests/test_prose.py"
    for phrase in sorted(said & known["numbers"].keys()):
        if (problem := source_problem(phrase, known["numbers"][phrase], notebook)) is not None:
            yield f"{phrase!r} {problem}"
    for heading, digest in formulas(notebook).items():
        if known["formulas"].get(heading) != digest:
            yield f"a formula below {heading!r} is another: read them, then run python tests/test_prose.py"


def brought_up_to_date(notebook, known):
    """What the file should say of a chapter; "?" where a person has to say it."""
    reasons = known.get("numbers", {})
    found = {}
    for phrase in sorted({phrase for text in texts(notebook) for phrase in numbers(text)}):
        kept = reasons.get(phrase, "?")
        for source, text in (("output", outputs_of(notebook)), ("code", code_of(notebook))):
            if kept in ("?", "output", "code") and stands_in(phrase, text):
                kept = source
                break
        else:
            kept = "?" if kept in ("output", "code") else kept
        found[phrase] = kept
    return {"numbers": found, "formulas": formulas(notebook)}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_numbers_and_formulas_in_prose_are_those_that_were_looked_at(chapter):
    known = json.loads(FILE.read_text(encoding="utf-8"))[chapter]
    found = "\n".join(f"{chapter}: {problem}" for problem in problems(CHAPTERS[chapter], known))
    assert not found, found


# ---- The rule can fail ------------------------------------------------------------------------

TEXT = """# Title

Of 44 intervals, 1,797 digits and $0.204$ of all, 3.4 % or 19 percent are wrong, and 1.9 times {eq}`eq-12`.
In `x[20]` and [there](page_30) nothing; $\\frac38$ and $12/k$ are formulas.

$$
a = 0.25
$$ (eq-a)

```{exercise-start} Title
:label: ex-99
```
About 57 of them.
```{exercise-end}
```

```
code 77
```
"""
OUTPUT = "44 intervals, 1797 digits, 0.204; 3.4% wrong; 57"


def a_chapter(text=TEXT, output=OUTPUT):
    code = new_code_cell("n = 1.9", outputs=[new_output("stream", text=output)])
    return new_notebook(cells=[new_markdown_cell(text), code])


def looked_at():
    known = brought_up_to_date(a_chapter(), {})
    known["numbers"]["19 percent"] = "= 100 * 0.188"
    return known


def test_numbers_are_found_with_what_they_count():
    known = looked_at()
    assert known["numbers"] == {
        "44 intervals": "output", "1,797 digits": "output", "0.204 of": "output", "3.4 percent": "output",
        "19 percent": "= 100 * 0.188", "1.9 times": "code", "57 of": "output",
    }  # fmt: skip
    assert not list(problems(a_chapter(), known))


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("44", "45"), ("1,797", "1,798"), ("0.204", "0.205"), ("3.4 %", "3.5 %"), ("19 p", "18 p"),
        ("1.9", "1.8"), ("57", "58"), (r"\frac38", r"\frac58"), ("12/k", "13/k"),
    ],
)  # fmt: skip
def test_a_change_in_prose_is_noticed(right, wrong):
    changed = a_chapter(TEXT.replace(right, wrong))
    assert any("new" in problem or "another" in problem for problem in problems(changed, looked_at()))


@pytest.mark.parametrize(
    "right, wrong", [("44", "43"), ("1797", "1798"), ("0.204", "0.214"), ("3.4%", "3.6%")]
)
def test_a_change_of_the_outputs_is_noticed(right, wrong):
    changed = a_chapter(output=OUTPUT.replace(right, wrong))
    [problem] = problems(changed, looked_at())
    assert "in no output" in problem


def test_a_number_without_a_source_and_a_wrong_computation_are_noticed():
    known = looked_at()
    known["numbers"] |= {"44 intervals": "?", "19 percent": "= 100 * 0.17"}
    assert [p.split(" ", 2)[2] for p in problems(a_chapter(), known)] == [
        "is 17 by = 100 * 0.17",
        'has no source: write "output", "code", "= an expression" or the reason',
    ]


if __name__ == "__main__":
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    after = {
        name: brought_up_to_date(notebook, before.get(name, {})) for name, notebook in CHAPTERS.items()
    }
    FILE.write_text(
        json.dumps(after, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )
    for name, chapter in after.items():
        for phrase in [phrase for phrase, source in chapter["numbers"].items() if source == "?"]:
            sys.stdout.write(f"{name}: {phrase}\n")
