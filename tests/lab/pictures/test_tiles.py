"""`draw_tiles`, by its words and patches."""
from course import lab


def test_strips_are_counted_once():
    orders = {"one": [(1, 0)], "two rows": [(0, 0), (0, 1), (1, 0)]}
    picture = lab.draw_tiles(orders, (2, 3), steps=2)
    assert repr(picture) == "one: reads 1 row of a, 1 column of b; two rows: reads 2 rows of a, 2 columns of b"
    assert picture._repr_mimebundle_()[0]["image/png"].startswith(b"\x89PNG")


def test_many_tiles_are_drawn_without_lines():
    (axes,) = lab.draw_tiles({"all": [(i, 2 * i) for i in range(40)]}, (40, 80)).axes
    assert not axes.collections and not [text for text in axes.texts if text.get_text().isdigit()]
