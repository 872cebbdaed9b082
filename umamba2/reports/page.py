"""The report page: one HTML file with everything in it, to read, to print and to keep.

The page loads nothing from anywhere, and says so to the browser (Content-Security-Policy). It has no script.
"""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

import umamba2
from umamba2.anatomy.groups import by_group
from umamba2.anatomy.numberings import ids_of
from umamba2.anatomy.structures import FDI_TEETH
from umamba2.files import write_file
from umamba2.reports.checks import NOTE, WARNING, Remark, check
from umamba2.reports.overview import render_views
from umamba2.reports.reading import Reading
from umamba2.reports.slices import PLANES, Slice, cut_slices
from umamba2.reports.statistics import Measure, measure
from umamba2.reports.style import STYLE
from umamba2.scans.orientation import orientation

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_TILTED = 5.0  # degrees from which on the marks at the pictures deserve a word

_BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue to the eye (ITU-R BT.601)

# As dentists draw it: the patient's right on the left, upper teeth above lower teeth.
_CHART = (tuple(reversed(FDI_TEETH[:8])) + FDI_TEETH[8:16], tuple(reversed(FDI_TEETH[24:])) + FDI_TEETH[16:24])


def write_report(path: str | Path, reading: Reading) -> None:
    """Write the report of a case as one HTML file; InputError if that is not possible."""
    write_file(path, make_page(reading))


def make_page(reading: Reading) -> str:
    """The report of a case as HTML."""
    measures = measure(reading)
    remarks = check(reading, measures)
    parts = [
        _header(reading),
        _remarks(remarks),
        _overview(reading),
        _chart(measures) if any(s.fdi for s in reading.challenge.structures) else "",
        _slices(reading),
        _structures(reading, measures),
        _footer(reading),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(reading.name)}: segmentation report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _header(reading: Reading) -> str:
    size, spacing = reading.geometry.size, reading.geometry.spacing
    facts = [
        f"{' × '.join(map(str, size))} voxels of {' × '.join(f'{mm:.3g}' for mm in spacing)} mm",
        f"{' × '.join(f'{n * mm:.0f}' for n, mm in zip(size, spacing))} mm in all",
        f"{reading.challenge.name}, ids: {reading.numbering}",
    ]
    line = "".join(f"<span>{fact}</span>" for fact in facts)
    name = escape(reading.name)
    return f'<header><h1>Segmentation report <span>{name}</span></h1>\n<p class="facts">{line}</p></header>'


def _remarks(remarks: list[Remark]) -> str:
    if not any(remark.level == WARNING for remark in remarks):
        remarks = [Remark(NOTE, "No warnings."), *remarks]
    lines = [
        f'<li class="{remark.level}">{"<b>Check:</b> " if remark.level == WARNING else ""}{escape(remark.text)}</li>'
        for remark in remarks
    ]
    return f'<ul class="remarks">\n{_lines(lines)}\n</ul>'


def _overview(reading: Reading) -> str:
    rows: dict[str, list[str]] = {"pictures views": [], "pictures views arches": []}
    for view, picture in render_views(reading):
        stage = _stage([("", picture, f"The structures seen {view.name}")], view.marks, reading.oriented)
        width = f"--width: {picture.width}"  # one scale for views side by side
        figure = f'<figure style="{width}">{stage}<figcaption>{view.name}</figcaption></figure>'
        rows["pictures views arches" if view.quadrants else "pictures views"].append(figure)
    body = [f'<div class="{kind}">\n{_lines(figures)}\n</div>' for kind, figures in rows.items() if figures]
    return "<h2>Overview</h2>\n" + _lines(body)


def _chart(measures: list[Measure]) -> str:
    found = {m.structure.fdi: m for m in measures if m.voxels}
    cells = []
    for row, teeth in enumerate(_CHART):
        cells += ['<div class="side">R</div>'] if row == 0 else []
        for fdi in teeth:
            middle = " middle" if fdi in (21, 31) else ""
            if fdi in found:
                structure = found[fdi].structure
                hint = f"{structure.name}: {_number(found[fdi].volume)} mm³"
                dark = " dark" if np.dot(structure.colour, _BRIGHTNESS) < 115 else ""
                colour = f"background:{_css(structure.colour)}"
                cells.append(f'<div class="tooth{dark}{middle}" style="{colour}" title="{hint}">{fdi}</div>')
            else:
                cells.append(f'<div class="tooth absent{middle}" title="not found">{fdi}</div>')
        cells += ['<div class="side">L</div>'] if row == 0 else []
    hint = '<p class="hint">FDI numbers. Coloured: found. Dashed: not found.</p>'
    return f'<h2>Teeth</h2>\n<div class="chart">\n{_lines(cells)}\n</div>\n{hint}'


def _slices(reading: Reading) -> str:
    slices = cut_slices(reading)
    has_truth = reading.truth is not None
    parts = ["<h2>Slices</h2>", _switch("overlay", "structures")]
    if has_truth:
        parts.append(_switch("truth", "ground truth (dashed)"))
    if reading.oriented:
        parts.append('<p class="hint">R right, L left, A front, P back, S top, I bottom of the patient.')
        tilt = orientation(reading.geometry).tilt
        if tilt > _TILTED:
            parts.append(f" The scan is turned by {tilt:.0f}° against the patient's axes; marks name the nearest.")
        parts.append("</p>")
    else:
        parts.append('<p class="hint">The image does not state its orientation, so sides are not marked.</p>')
    for plane in PLANES:
        figures = [_figure(cut, reading.oriented) for cut in slices if cut.plane == plane]
        pictures = f'<div class="pictures">\n{_lines(figures)}\n</div>'
        parts.append(f'<div class="slices"><h3>{plane.name}</h3>\n{pictures}</div>')
    return _lines(parts)


def _switch(name: str, text: str) -> str:
    return f'<input class="switch" type="checkbox" id="{name}" checked><label for="{name}">{text}</label>'


def _figure(cut: Slice, marked: bool) -> str:
    layers = [("", cut.base, f"{cut.plane.name} slice, {cut.place}"), ("overlay", cut.overlay, "structures")]
    if cut.truth is not None:
        layers.append(("truth", cut.truth, "ground truth"))
    return f"<figure>{_stage(layers, cut.plane.marks, marked)}<figcaption>{cut.place}</figcaption></figure>"


def _stage(layers: list[tuple[str, Image.Image, str]], marks: tuple[str, ...], marked: bool) -> str:
    images = [
        f'<img class="{kind}" src="{_inline(picture)}" width="{picture.width}" height="{picture.height}" alt="{alt}">'
        for kind, picture, alt in layers
    ]
    letters = [
        f'<span class="mark {place}">{mark}</span>' for place, mark in zip(("top", "right", "bottom", "left"), marks)
    ]
    return f'<div class="stage">{"".join(images)}{"".join(letters) if marked else ""}</div>'


def _inline(picture: Image.Image) -> str:
    stream = BytesIO()
    if picture.mode == "L":
        picture.save(stream, "JPEG", quality=88)
    elif len(picture.getcolors(257) or ()):  # flat colours: a palette is far smaller
        picture.quantize(256, Image.Quantize.FASTOCTREE).save(stream, "PNG", optimize=True)
    else:
        picture.save(stream, "PNG", optimize=True)
    kind = "jpeg" if picture.mode == "L" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _structures(reading: Reading, measures: list[Measure]) -> str:
    sections = []
    isotropic = np.ptp(reading.geometry.spacing) < 1e-3 * max(reading.geometry.spacing)
    for group, members in by_group(reading.challenge.structures).items():
        rows = [_row(reading, m, isotropic) for m in measures if m.structure in members]
        if rows:
            heads = ["", "id", "mm³", "ml"]
            if reading.truth is not None:
                heads += ["Dice", "HD95 voxels", *(["HD95 mm"] if isotropic else [])]
            head = "".join(f"<th>{text}</th>" for text in heads)
            table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{_lines(rows)}\n</tbody></table>"
            sections.append(f"<section><h3>{group}</h3>{table}</section>")
    return f'<h2>Structures</h2>\n<div class="groups">\n{_lines(sections)}\n</div>'


def _row(reading: Reading, m: Measure, isotropic: bool) -> str:
    fdi = m.structure.fdi
    number = "" if fdi is None else f'<span class="fdi">{fdi}</span>'
    swatch = f'<span class="swatch" style="background:{_css(m.structure.colour)}"></span>'
    where = "" if m.voxels else " (only in the ground truth)"
    cells = [
        f"{swatch}{number}{m.structure.name}{where}",
        str(ids_of(m.structure, reading.numbering)[0]),
        _number(m.volume),
        f"{m.volume / 1000:.2f}",
    ]
    if reading.truth is not None:
        cells += ["–" if m.dice is None else f"{m.dice:.3f}", "–" if m.hd95 is None else f"{m.hd95:.2f}"]
        if isotropic:
            cells.append("–" if m.hd95 is None else f"{m.hd95 * reading.geometry.spacing[0]:.2f}")
    return f'<tr data-id="{cells[1]}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _footer(reading: Reading) -> str:
    lines = ["Volumes are counts of voxels times the volume of a voxel."]
    if reading.truth is not None:
        lines.append("Dice and HD95, the 95th percentile of the distances between the surfaces, as in ToothFairy3.")
    lines.append("Checks compare with typical anatomy; they neither find nor exclude disease.")
    lines.append("Research software, not a medical device; not for diagnosis or treatment.")
    return f"<footer><p>{' '.join(lines)}</p><p>umamba2 {umamba2.__version__}</p></footer>"


def _number(volume: float) -> str:
    return f"{volume:,.0f}" if volume >= 100 else f"{volume:.1f}"


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _lines(parts: list[str]) -> str:
    return "\n".join(parts)
