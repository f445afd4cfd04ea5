"""Behaviour of what pictures are made of: places of labels, dots, looks, words."""

from hypothesis import given
from hypothesis import strategies as st

from niwfctl.cli.drawing.canvas import DOTS, Canvas
from niwfctl.cli.drawing.captions import shortened
from niwfctl.cli.drawing.labels import Box, place
from niwfctl.cli.drawing.look import COLOURS, SHAPES

PAPER = Box(0, 0, 200, 100)


@given(
    marks=st.lists(st.tuples(st.integers(0, 190), st.integers(0, 90)), max_size=30),
    width=st.integers(1, 60),
    grid=st.sampled_from([(1, 1), DOTS]),
)
def test_labels_stay_on_paper_and_cover_neither_each_other_nor_a_mark(
    marks: list[tuple[int, int]], width: int, grid: tuple[int, int]
) -> None:
    boxes = [Box(x, y, 10, 10) for x, y in marks]
    found = place(boxes, [(width, 8)] * len(boxes), PAPER, (2, 0), grid)
    placed = [box for box in found if box]
    for index, box in enumerate(placed):
        assert PAPER.holds(box) and box.left % grid[0] == 0 and box.top % grid[1] == 0
        assert not any(box.meets(other) for other in [*boxes, *placed[:index]])


def test_a_label_stands_beside_its_mark_and_moves_where_another_is() -> None:
    marks = [Box(50, 50, 10, 10), Box(75, 50, 10, 10)]
    beside, second = place(marks, [(12, 10), (30, 10)], PAPER, (2, 0))
    assert beside == Box(62, 50, 12, 10) and second == Box(87, 50, 30, 10)
    (moved, _) = place(marks, [(30, 10), (30, 10)], PAPER, (2, 0))
    assert moved.right <= 50


def test_a_label_without_room_is_left_out() -> None:
    assert place([Box(0, 0, 10, 10)], [(300, 10)], PAPER, (2, 0)) == [None]


def test_dots_and_words_are_where_they_were_put() -> None:
    canvas = Canvas(4, 2)
    for x, y in ((0, 0), (1, 3), (7, 7), (8, 0), (-1, 0), (0, 8)):
        canvas.dot(x, y, "red")
    canvas.word(2, 4, "ab", "bold")
    first, second = canvas.lines()
    assert first.plain == "⢁" and second.plain == " ab⢀"
    assert [span.style for span in first.spans] == ["red"]


def test_forty_two_capabilities_look_different() -> None:
    looks = {(COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)].glyph) for i in range(42)}
    assert len(looks) == 42
    assert len({shape.path(5) for shape in SHAPES}) == len({s.plot for s in SHAPES}) == 7


@given(st.text(), st.integers(1, 50))
def test_a_line_has_no_control_characters_and_is_no_longer_than_asked(
    text: str, longest: int
) -> None:
    line = shortened(text, longest)
    assert len(line) <= longest and line.isprintable()


def test_a_line_of_plain_words_stays_as_it_is() -> None:
    assert shortened("two  words\n\x1b[31mred\u202e", 80) == "two words [31mred"
    assert shortened("abcdef", 4) == "abc…"
