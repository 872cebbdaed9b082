"""One PNG to glance at: the views of the surfaces above, one slice of each plane below."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from umamba2.files import write_file
from umamba2.reports.overview import render_views
from umamba2.reports.reading import ReportCase
from umamba2.reports.slices import cut_slices

_WIDTH, _GAP = 1500, 12
_GROUND, _INK = (18, 20, 23), (225, 228, 232)
_FONT_SIZE = 18


def write_preview(path: str | Path, case: ReportCase) -> None:
    """Write the preview of a case as PNG; InputError if that is not possible."""
    stream = BytesIO()
    make_preview(case).save(stream, "PNG", optimize=True)
    write_file(path, stream.getvalue())


def make_preview(case: ReportCase) -> Image.Image:
    """The preview of a case: RGB, 1500 pixels wide."""
    views = [(view.name, view.marks, picture) for view, picture in render_views(case) if not view.quadrants]
    slices = []
    for cut in cut_slices(case, shown=(0.5,)):
        picture = cut.base.convert("RGBA")
        picture.alpha_composite(cut.overlay)
        slices.append((f"{cut.plane.name}, {cut.place}", cut.plane.marks, picture))
    rows = [_row(pictures, case.oriented) for pictures in (views, slices)]
    heading = _FONT_SIZE + 2 * _GAP
    sheet = Image.new("RGB", (_WIDTH, heading + sum(row.height + _GAP for row in rows)), _GROUND)
    ImageDraw.Draw(sheet).text((_GAP, _GAP), case.name, _INK, _font())
    top = heading
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + _GAP
    return sheet


def _row(pictures: list[tuple[str, tuple[str, str, str, str], Image.Image]], marked: bool) -> Image.Image:
    """Pictures side by side at one scale, filling the width, each with its name and marks."""
    space = _WIDTH - _GAP * (len(pictures) + 1)
    scale = space / sum(picture.width for _, _, picture in pictures)
    height = max(round(picture.height * scale) for _, _, picture in pictures)
    row = Image.new("RGB", (_WIDTH, height + _FONT_SIZE + _GAP), _GROUND)
    draw, font, left = ImageDraw.Draw(row), _font(), _GAP
    for name, marks, picture in pictures:
        width, tall = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize((width, tall), Image.Resampling.LANCZOS)
        row.paste(picture, (left, (height - tall) // 2), picture)
        if marked:
            _, right_mark, _, left_mark = marks
            draw.text((left + 4, height / 2), left_mark, _INK, font, anchor="lm")
            draw.text((left + width - 4, height / 2), right_mark, _INK, font, anchor="rm")
        draw.text((left + width / 2, height + 4), name, _INK, font, anchor="ma")
        left += width + _GAP
    return row


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(_FONT_SIZE)
