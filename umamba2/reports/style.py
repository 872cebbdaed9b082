"""How the report page looks: one style sheet, for screens light and dark, narrow and wide, and for paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --panel: #f3f4f6; --ink: #1c2127; --soft: #5b6570; --line: #d9dde2; --accent: #2b5d8a;
  --warn: #8a5300; --warn-ground: #fdf4e3; --warn-line: #e6bf7a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171a; --panel: #1e2226; --ink: #e4e7ea; --soft: #9aa4ae; --line: #343a41; --accent: #8db9e0;
    --warn: #f0c274; --warn-ground: #2b2416; --warn-line: #6b5425;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1240px; padding: 28px clamp(14px, 3vw, 36px) 48px; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
header { border-bottom: 1px solid var(--line); padding-bottom: 14px; }
h1 { font-size: 1.5rem; font-weight: 600; margin: 0; line-height: 1.25; }
h1 span { font-weight: 400; color: var(--soft); overflow-wrap: anywhere; }
h2 { font-size: 1.08rem; font-weight: 600; margin: 34px 0 10px; }
h3 { font-size: .92rem; font-weight: 600; margin: 16px 0 6px; text-transform: capitalize; }
p { margin: 6px 0; }
.facts, .hint, figcaption, footer { color: var(--soft); font-size: .87rem; }
.facts span { display: inline-block; margin-right: 1.4em; }
.remarks { list-style: none; margin: 18px 0 0; padding: 0; display: grid; gap: 6px; }
.remarks li { border-left: 4px solid var(--line); background: var(--panel); padding: 7px 12px;
  border-radius: 0 4px 4px 0; }
.remarks .warning { border-color: var(--warn-line); background: var(--warn-ground); color: var(--warn); }
.remarks b { font-weight: 600; }
.pictures { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.pictures.views { display: flex; flex-wrap: wrap; margin-bottom: 12px; }
figure { margin: 0; min-width: 0; }
figcaption { padding-top: 4px; text-align: center; }
.stage { position: relative; background: var(--panel); border-radius: 4px; overflow: hidden; display: flex;
  align-items: center; justify-content: center; height: 100%; }
.views figure { display: flex; flex-direction: column; flex: var(--width) 1 240px; }
.views.arches figure { flex: 1 1 280px; max-width: 380px; }
.views .stage { padding: 22px 24px; flex: 1; }
.stage img { display: block; width: 100%; height: auto; }
.arches .stage img { max-height: 250px; width: auto; max-width: 100%; }
.slices .stage { background: #000; display: block; height: auto; }
.slices .stage img + img { position: absolute; inset: 0; height: 100%; }
.mark { position: absolute; font-size: .82rem; font-weight: 600; color: var(--soft); line-height: 1; }
.slices .mark { color: #fff; text-shadow: 0 0 3px #000, 0 0 3px #000; }
.top { top: 6px; left: 50%; transform: translateX(-50%); }
.bottom { bottom: 6px; left: 50%; transform: translateX(-50%); }
.left { left: 7px; top: 50%; transform: translateY(-50%); }
.right { right: 7px; top: 50%; transform: translateY(-50%); }
.switch { margin-right: 6px; accent-color: var(--accent); }
.switch + label { margin-right: 18px; font-size: .9rem; }
#overlay:not(:checked) ~ .slices .overlay, #truth:not(:checked) ~ .slices .truth { display: none; }
.chart { display: grid; grid-template-columns: auto repeat(16, minmax(0, 1fr)) auto; gap: 3px; max-width: 820px;
  align-items: center; font-variant-numeric: tabular-nums; }
.chart .side { color: var(--soft); font-weight: 600; padding: 0 4px; grid-row: span 2; }
.tooth { text-align: center; padding: 7px 0; border-radius: 4px; font-size: clamp(.6rem, 1.9vw, .85rem); color: #111;
  border: 1px solid rgba(0, 0, 0, .25); overflow: hidden; }
.tooth.absent { background: none !important; border: 1px dashed #8f99a3; color: var(--soft); }
.tooth.dark { color: #fff; }
.tooth.middle { margin-left: 5px; }
.groups { columns: 2; column-gap: 36px; }
.groups section { break-inside: avoid; margin-bottom: 14px; }
.groups h3 { margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .85rem; }
th { text-align: right; font-weight: 500; color: var(--soft); font-size: .8rem; vertical-align: bottom; }
th, td { padding: 3px 5px; border-bottom: 1px solid var(--line); }
td { text-align: right; white-space: nowrap; }
th { width: 3.9em; }
th:nth-child(2) { width: 2.6em; }
th:first-child, td:first-child { width: auto; text-align: left; white-space: normal; padding-left: 0; }
.swatch { display: inline-block; width: .85em; height: .85em; border-radius: 3px; margin-right: .55em;
  border: 1px solid rgba(0, 0, 0, .35); vertical-align: -.08em; }
td:first-child { padding-left: 1.4em; text-indent: -1.4em; }
.fdi { font-weight: 600; margin-right: .4em; }
footer { margin-top: 36px; border-top: 1px solid var(--line); padding-top: 12px; }
@media (max-width: 900px) { .groups { columns: 1; } }
@media (max-width: 480px) { .chart { gap: 1px; } .tooth { padding: 5px 0; } .tooth.middle { margin-left: 2px; } }
@media print {
  :root { color-scheme: light; --ground: #fff; --panel: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --warn: #000; --warn-ground: #fff; --warn-line: #000; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .switch, .switch + label { display: none; }
  .pictures { grid-template-columns: repeat(3, 1fr); gap: 8px; }
  .views figure { flex-basis: 130px; }
  .views.arches figure { flex-basis: 130px; max-width: 240px; }
  .views .stage { border: 1px solid var(--line); padding: 18px; }
  .mark, figcaption { font-size: 8pt; }
  .groups { columns: 1; }
  .groups section { break-inside: auto; }
  table { font-size: 8.5pt; }
  th, td { padding: 1px 5px; }
  tr { break-inside: avoid; }
  h2 { margin-top: 18px; }
  h2, h3 { break-after: avoid; }
  figure, .chart, .remarks li { break-inside: avoid; }
}
"""
