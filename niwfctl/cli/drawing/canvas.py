"""A drawing of braille dots and words on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

DOTS = (2, 4)  # in a cell, across and down
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of U+2800, by row and column


class Canvas:
    """Cells of braille dots; a cell takes the colour of the last thing drawn in it."""

    def __init__(self, columns: int, rows: int) -> None:
        self._bits = [[0] * columns for _ in range(rows)]
        self._words: dict[tuple[int, int], str] = {}
        self._styles: dict[tuple[int, int], str] = {}

    def dot(self, x: float, y: float, style: str) -> None:
        """A dot at x, y, counted in dots from the upper left corner; ignored outside."""
        column, row = int(x // DOTS[0]), int(y // DOTS[1])
        if 0 <= row < len(self._bits) and 0 <= column < len(self._bits[row]):
            self._bits[row][column] |= _BITS[int(y % DOTS[1])][int(x % DOTS[0])]
            self._styles[row, column] = style

    def word(self, x: float, y: float, text: str, style: str) -> None:
        """A text of characters one cell wide, from the cell that holds the dot x, y."""
        column, row = int(x // DOTS[0]), int(y // DOTS[1])
        for place, character in enumerate(text, column):
            self._words[row, place] = character
            self._styles[row, place] = style

    def lines(self) -> Iterator[Text]:
        """Its rows, ready to print."""
        for row, cells in enumerate(self._bits):
            line = Text()
            for column, bits in enumerate(cells):
                drawn = chr(0x2800 + bits) if bits else " "
                at = row, column
                line.append(self._words.get(at, drawn), self._styles.get(at, ""))
            line.rstrip()
            yield line
