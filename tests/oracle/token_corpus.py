"""Texts that tokenizers disagree about: made from tables and a generator of our own, the same on every machine."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence

RANGES = {
    "latin": (0x61, 0x7B),
    "latin-1": (0xC0, 0x100),
    "latin extended": (0x100, 0x250),
    "ipa": (0x250, 0x2B0),
    "greek": (0x391, 0x3CA),
    "cyrillic": (0x410, 0x450),
    "armenian": (0x561, 0x587),
    "hebrew": (0x5D0, 0x5EB),
    "arabic": (0x621, 0x64B),
    "syriac": (0x710, 0x730),
    "thaana": (0x780, 0x7A6),
    "devanagari": (0x904, 0x94E),
    "bengali": (0x985, 0x9A9),
    "gurmukhi": (0xA13, 0xA29),
    "gujarati": (0xA93, 0xAA9),
    "tamil": (0xB85, 0xBBA),
    "telugu": (0xC05, 0xC3A),
    "kannada": (0xC85, 0xCB4),
    "malayalam": (0xD05, 0xD3A),
    "sinhala": (0xD9A, 0xDB2),
    "thai": (0xE01, 0xE31),
    "lao": (0xE81, 0xEB0),
    "tibetan": (0xF40, 0xF6D),
    "burmese": (0x1000, 0x102A),
    "georgian": (0x10D0, 0x10F1),
    "hangul jamo": (0x1100, 0x1113),
    "ethiopic": (0x1200, 0x1249),
    "cherokee": (0x13A0, 0x13F0),
    "khmer": (0x1780, 0x17B3),
    "mongolian": (0x1820, 0x1843),
    "greek extended": (0x1F00, 0x1F16),
    "punctuation": (0x2010, 0x2028),
    "superscripts": (0x2070, 0x2072),
    "currency": (0x20A0, 0x20C0),
    "letterlike": (0x2100, 0x214F),
    "roman numerals": (0x2160, 0x2189),
    "arrows": (0x2190, 0x2200),
    "mathematics": (0x2200, 0x2300),
    "enclosed": (0x2460, 0x24FF),
    "boxes": (0x2500, 0x2580),
    "shapes": (0x25A0, 0x2600),
    "braille": (0x2800, 0x2900),
    "cjk punctuation": (0x3001, 0x3012),
    "hiragana": (0x3041, 0x3097),
    "katakana": (0x30A1, 0x30FB),
    "bopomofo": (0x3105, 0x3130),
    "han": (0x4E00, 0x9FA5),
    "hangul": (0xAC00, 0xD7A4),
    "arabic forms": (0xFE70, 0xFEFD),
    "fullwidth": (0xFF01, 0xFF5F),
    "halfwidth katakana": (0xFF66, 0xFF9E),
    "gothic": (0x10330, 0x1034B),
    "cuneiform": (0x12000, 0x12100),
    "mathematical letters": (0x1D400, 0x1D455),
    "emoji": (0x1F300, 0x1F650),
    "han beyond the first plane": (0x20000, 0x20100),
}
SPECIAL = (
    "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>",
    "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>",
    "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|start|>", "<|message|>",
    "<|channel|>", "<|return|>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<tool_call>",
    "</tool_call>", "<think>",
)  # fmt: skip
SPACES = (
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\u00a0",
    "\u2003",
    "\u200b",
    "\u3000",
    "\ufeff",
    "\x0b",
    "\x85",
)
ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ll", "’s", "'x", "''", "'")
JOINED = (
    "👩‍👩‍👧‍👦", "👍🏽", "🇫🇷🇯🇵", "1️⃣", "❤️", "🏴‍☠️", "🧑🏿‍🚀", "☺️", "🤷‍♀️", "🫠", "é", "é", "ñ", "한", "각",
    "ﬁ", "Å", "Å", "Å", "ạ̈", "क्षि", "நி", "ลำ", "الله", "שָׁלוֹם", "İi̇", "ß", "ẞ", "ǆ", "½", "²", "Ⅷ", "①",
)  # fmt: skip
CODE = (
    "def {0}({1}: int) -> str:\n{2}return f\"{{{1}}}: {3}\"\n",
    "for ({0} = 0; {0} < {3}; {0}++) {{\n{2}{1}[{0}] += 0x{3}F;\n}}\n",
    "SELECT {0}, COUNT(*) FROM {1} WHERE id >= {3} GROUP BY {0};",
    "<div class=\"{0}\" data-{1}='{3}'>&nbsp;{0}</div>\n",
    "#include <{0}.h>\n\n{2}int {1} = {3};\t// {0}\n",
    "{{\"{0}\": [{3}, null, true], \"{1}\": {{\"x\": -{3}.5e-3}}}}",
    "$ {0} --{1}={3} | grep -v '{0}' > /tmp/{1}.log 2>&1 && echo $?",
    "\\begin{{{0}}}\n{2}\\frac{{{3}}}{{{1}^2}} \\le \\alpha_{{{0}}}\n\\end{{{0}}}",
    "let {0}: Vec<&'a {1}> = vec![{3}; 7];{2}// {0}",
    "# {0}\n\n- [ ] {1} ({3}%)\n{2}- **{0}**: `{1}`\n\n| a | b |\n|---|---|\n",
)  # fmt: skip
NAMES = ("value", "snake_case", "camelCase", "HTTPServer", "x", "_private", "iPhone15Pro", "naïve", "МирTruth", "変数")


class Draw:
    """A linear congruential generator (Numerical Recipes'), so that no library's changes matter."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, count: int) -> int:
        self._state = (self._state * 1664525 + 1013904223) % 2**32
        return (self._state >> 8) % count

    def one_of(self, things: Sequence[str]) -> str:
        return things[self.below(len(things))]

    def word(self, first: int, last: int, longest: int = 7) -> str:
        return "".join(chr(first + self.below(last - first)) for _ in range(1 + self.below(longest)))


def corpus() -> list[str]:
    """More than 2,000 texts, none twice."""
    made = itertools.chain(_scripts(), _numbers(), _words(), _spaces(), _joined(), _code(), _specials(), _mixtures())
    return list(dict.fromkeys(made))


def _scripts() -> Iterator[str]:
    for number, (first, last) in enumerate(RANGES.values()):
        draw = Draw(number)
        yield "".join(map(chr, range(first, min(last, first + 40))))
        for _ in range(9):
            words = [draw.word(first, last) for _ in range(2 + draw.below(5))]
            yield draw.one_of((" ", " ", ", ", "-", "\n")).join(words) + draw.one_of((".", "!", "", "。", "?\n"))


def _numbers() -> Iterator[str]:
    draw = Draw(1000)
    for length in range(1, 21):
        digits = "".join(str(draw.below(10)) for _ in range(length))
        yield from (
            digits,
            f" {digits}",
            f"v{digits}.{digits}",
            f"${digits},000.{digits[:2]}",
            f"{digits}%",
            f"-{digits}",
        )
    yield from (
        "１２３",
        "٠١٢٣٤٥",
        "१२३४",
        "3.14159e-10",
        "1_000_000",
        "0b1010 0o17 0xDEADbeef",
        "12:34:56",
        "2024-02-29",
    )


def _words() -> Iterator[str]:
    draw = Draw(2000)
    for ending in ENDINGS:
        for word in ("I", "they", "DON", "l", "rock", "O"):
            yield f"{word}{ending}"
            yield f" {word}{ending} {draw.word(0x61, 0x7B)}"
    for _ in range(150):
        words = [draw.word(0x61, 0x7B) for _ in range(6)]
        changed = [
            word.upper() if draw.below(6) == 0 else word.title() if draw.below(4) == 0 else word for word in words
        ]
        yield draw.one_of((" ", "  ", "-", "/", "_", "... ", "; ", "\n")).join(changed)


def _spaces() -> Iterator[str]:
    for before, after in itertools.product(SPACES, repeat=2):
        yield f"{before}a{after}b{before}{after}"
    for space in SPACES:
        yield from (space * count for count in (1, 2, 3, 5, 16, 31))
        yield f"x{space * 4}y"
    yield from ("", "a ", " a", "a  ", "  a", "\n a", "a\n ", "a \n b", "\ta\t\tb", "a\n\n\nb", "a\r\n\r\nb", "a \t \n")


def _joined() -> Iterator[str]:
    for text in JOINED:
        yield from (text, f"a{text}b", f" {text} {text}", text * 3)
        for form in ("NFC", "NFD", "NFKC"):
            yield unicodedata.normalize(form, f"{text}x {text}")


def _code() -> Iterator[str]:
    draw = Draw(3000)
    for template, indent in itertools.product(CODE, ("", " ", "    ", "\t", "        ", "\t\t ")):
        for _ in range(4):
            yield template.format(draw.one_of(NAMES), draw.one_of(NAMES), indent, draw.below(100000))


def _specials() -> Iterator[str]:
    for special in SPECIAL:
        yield from (special, f"a{special}b", f"a {special} b", f"{special}{special}", f"{special}\n{special}  x")
        yield from (special[:-1], special[1:], special.upper(), f"{special[0]} {special[1:]}")


def _mixtures() -> Iterator[str]:
    draw = Draw(4000)
    ranges = list(RANGES.values())
    for _ in range(350):
        parts = []
        for _ in range(3 + draw.below(6)):
            kind = draw.below(6)
            if kind == 0:
                parts.append(draw.one_of(SPECIAL))
            elif kind == 1:
                parts.append(draw.one_of(JOINED))
            elif kind == 2:
                parts.append(str(draw.below(10**6)))
            else:
                parts.append(draw.word(*ranges[draw.below(len(ranges))], 4))
            parts.append(draw.one_of((*SPACES, "", "", ".", "'s", "—")))
        yield "".join(parts)
