"""The drawings of the lessons, boxes and arrows made by code: each file of tools/drawings/ becomes an SVG in
nbs/figures/.

usage: draw.py [NAME...]
"""
import html
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
FIGURES = HERE.parent / "nbs" / "figures"
FILLS = dict(data="#F2F2EE", net="#CFE3F2", part="#E4F0F8", loss="#F8DFC6", known="#DDDDDD", note="none")
INK, EDGE, PAPER = "#1A1A1A", "#555555", "#FFFFFF"


class Drawing:
    """Boxes and arrows on a white card, so that it reads alike in the dark and in the light. Places are in pixels from
    the top left; `told` says in words what is drawn, for those who do not see it."""
    def __init__(self, width: int, height: int, told: str):
        self.width, self.height, self.told, self.parts = width, height, told, []

    def text(self, x: float, y: float, words: str, size: int = 13, anchor: str = "middle", bold: bool = False,
             mono: bool = False, colour: str = INK) -> None:
        "Words centred at (x, y); each line of them on a line of its own."
        lines = words.split("\n")
        style = f'font-size="{size}"' + (' font-weight="600"' if bold else "")
        style += ' font-family="ui-monospace, Menlo, Consolas, monospace"' if mono else ""
        for i, line in enumerate(lines):
            place = y + (i - (len(lines) - 1) / 2) * size * 1.25 + size * 0.35
            self.parts.append(f'<text x="{x:g}" y="{place:g}" text-anchor="{anchor}" fill="{colour}" '
                              f'{style}>{html.escape(line)}</text>')

    def box(self, x: float, y: float, width: float, height: float, words: str = "", kind: str = "net", size: int = 13,
            bold: bool = False) -> None:
        "A box whose top left corner is (x, y), with words in its middle; `kind` is one of `FILLS`."
        dashes = ' stroke-dasharray="5 4"' if kind == "note" else ""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
                          f'fill="{FILLS[kind]}" stroke="{EDGE}"{dashes}/>')
        if words: self.text(x + width / 2, y + height / 2, words, size, bold=bold)

    def grid(self, x: float, y: float, cell: float, colours: list[list[str]]) -> None:
        "A grid of coloured cells, row by row, its top left corner at (x, y)."
        for i, row in enumerate(colours):
            for j, colour in enumerate(row):
                self.parts.append(f'<rect x="{x + j * cell:g}" y="{y + i * cell:g}" width="{cell:g}" height="{cell:g}" '
                                  f'fill="{colour}" stroke="{PAPER}" stroke-width="0.5"/>')

    def arrow(self, *points: tuple[float, float], label: str = "", dashed: bool = False, size: int = 12) -> None:
        """A line through `points` with a head at the last; `label`, mostly a shape, stands above the middle of its
        longest piece."""
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{EDGE}" stroke-width="1.5"{dashes} '
                          'marker-end="url(#head)"/>')
        if not label: return
        pieces = zip(points, points[1:], strict=False)
        (x1, y1), (x2, y2) = max(pieces, key=lambda ends: abs(ends[0][0] - ends[1][0]) + abs(ends[0][1] - ends[1][1]))
        if abs(x2 - x1) >= abs(y2 - y1):
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - size * (0.75 + 0.6 * label.count("\n")), label, size, mono=True)
        else: self.text((x1 + x2) / 2 + 7, (y1 + y2) / 2, label, size, anchor="start", mono=True)

    def svg(self) -> str:
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" '
                f'height="{self.height}" role="img" font-family="system-ui, -apple-system, Segoe UI, DejaVu Sans, '
                'sans-serif">')
        marker = ('<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
                  f'orient="auto"><path d="M0 0L10 5L0 10z" fill="{EDGE}"/></marker></defs>')
        card = (f'<rect x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}" rx="10" fill="{PAPER}" '
                'stroke="#DDDDDD"/>')
        return "\n".join([head, f"<title>{html.escape(self.told)}</title>", marker, card, *self.parts, "</svg>"]) + "\n"


def main(names: list[str]) -> None:
    sys.path.insert(0, str(HERE))  # for `from draw import Drawing`
    for path in sorted((HERE / "drawings").glob("*.py")):
        if names and path.stem not in names: continue
        drawing = runpy.run_path(str(path))["draw"]()
        (FIGURES / f"{path.stem}.svg").write_text(drawing.svg(), encoding="utf-8")


if __name__ == "__main__": main(sys.argv[1:])
