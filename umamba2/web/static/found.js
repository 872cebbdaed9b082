// What was found: the tooth chart, the list of structures, what deserves a second look, and the tasks that change it.

import * as api from './api.js';
import { $, drawAll, drawnWithAll, guarded, say, state, viewer } from './page.js';
import { work } from './progress.js';
import { chart, structureList } from './structures.js';

export const hidden = new Map(); // by the number that is drawn: whether its structure is hidden
const opacity = { jaws: 0.25, sinuses: 0.3, pharynx: 0.3, other: 0.6, canals: 0.9 };
export const rowsShown = new Map(); // by the number that is drawn
let allHidden = false;

function listFound() {
  const { whole, canals } = state.layers;
  rowsShown.clear();
  for (const layer of [whole, canals]) for (const row of layer?.rows || []) rowsShown.set(row.shown, { ...row, kind: layer.kind });
  chart($('chart'), whole, goTo);
  structureList($('structures'), [canals, whole], { hidden, opacity, changed: paint, goTo });
  $('found').hidden = !rowsShown.size;
  listProblems();
  paint();
}

drawnWithAll(listFound);

export function hideOrShowAll() {
  allHidden = !allHidden;
  paint();
  say(allHidden ? 'What was found is hidden.' : 'What was found is shown.');
}

function listProblems() {
  const lines = (state.facts?.warnings || []).map((text) => ({ level: 'warning', text }));
  for (const layer of Object.values(state.layers)) {
    for (const text of layer.warnings) lines.push({ level: 'warning', text });
    for (const remark of layer.remarks || []) lines.push(remark);
  }
  const warnings = lines.filter(({ level }) => level === 'warning').length;
  const count = (n, word) => (n ? [`${n} ${word}${n > 1 ? 's' : ''}`] : []);
  $('checks').hidden = !lines.length;
  $('checks-sum').textContent = `Check: ${[...count(warnings, 'warning'), ...count(lines.length - warnings, 'note')].join(', ')}`;
  $('checks-sum').classList.toggle('warning', warnings > 0);
  $('problems').replaceChildren(...lines.map(({ level, text }) => {
    const item = document.createElement('li');
    item.className = level;
    item.textContent = text;
    return item;
  }));
}

function paint() {
  if (!state.facts) return;
  const colours = new Map();
  for (const [number, row] of rowsShown) {
    const group = row.kind === 'canals' ? 'canals' : row.group === 'canals' ? 'other' : row.group;
    const strength = allHidden || hidden.get(number) ? 0 : opacity[group] ?? opacity.other;
    colours.set(number, [...row.colour, strength]);
  }
  viewer.setColours(colours);
}

function goTo(row) {
  if (row.centre) viewer.goTo(row.centre);
}

// A task has changed a label map.
export async function took(result) {
  if (!result) { say('Cancelled.'); return; }
  const before = state.layers[result.kind];
  state.layers[result.kind] = result.layer;
  state.clicks = result.clicks;
  if (!state.clicks.some((click) => click.id === state.chosen)) state.chosen = null;
  if (result.kind === 'canals' && !before) {
    // The canals that the user guides take the place of those that were found without.
    for (const row of state.layers.whole?.rows || []) if (/inferior alveolar canal/.test(row.name)) hidden.set(row.shown, true);
  }
  if (result.box !== null) viewer.setDrawn(await api.drawn(state.scan, result.box), result.box);
  drawAll();
}

export async function ask(method, path, json, done) {
  await guarded(async () => {
    const scan = state.scan;
    const result = await work(await api.begin(method, `/api/scans/${scan}${path}`, json));
    if (state.scan !== scan) return; // another one was opened meanwhile
    await took(result);
    if (result) say(done(result));
  });
}

export const segmentAll = () => state.facts && ask('POST', '/segment', { challenge: $('model').value },
  (r) => r.layer.rows.length ? `${r.layer.rows.length} structures found.` : 'No structure found.');
