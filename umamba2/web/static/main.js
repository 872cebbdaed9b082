// The page: what is open, what the buttons and keys do, what is said.

import * as api from './api.js';
import { chart, structureList } from './structures.js';
import { dropped, picked } from './files.js';
import { listen } from './keys.js';
import { cancel, upload, uploading, work } from './progress.js';
import { Viewer } from './viewer.js';

const $ = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const viewer = new Viewer($('viewer'), $('marks'), { render: asked.get('render') !== '0' });
// scan: its name on the server; facts: what the server says of it; layers: what was found, by kind
const state = { about: null, scan: null, facts: null, layers: {}, clicks: [], chosen: null, mode: 'look', acting: 0 };
window.umamba2 = { state, viewer }; // for tests, and for whoever is curious

// --- saying things

function say(text, wrong = false) {
  $('said').textContent = text;
  $('said').classList.toggle('wrong', wrong);
}

async function guarded(what) {
  state.acting += 1;
  try {
    return await what();
  } catch (error) {
    if (error.name === 'AbortError') say('Cancelled.');
    else {
      if (!(error instanceof api.Refused)) console.error(error);
      say(error.message || String(error), true);
    }
    if (error.status === 404 && state.scan) forget('This scan is not open any more: it was closed after a long pause, or the server was started anew.');
    return undefined;
  } finally {
    state.acting -= 1;
  }
}

function refresh() {
  const open = Boolean(state.facts);
  const clicks = Boolean(state.about?.models.some((m) => m.clicks));
  for (const id of ['segment', 'load-labels', 'reset']) $(id).disabled = !open;
  for (const button of document.querySelectorAll('#layouts button, #windows button')) button.disabled = !open;
  for (const button of document.querySelectorAll('#modes button')) button.disabled = !open || !clicks;
  $('load-clicks').disabled = !open || !clicks;
  $('undo').disabled = !open || !state.layers.canals;
  $('move').disabled = $('remove').disabled = !open || state.chosen === null;
  $('welcome').hidden = open;
}

$('cancel').onclick = () => guarded(cancel);

// --- opening a scan

async function open(files) {
  if (!files.length) return;
  await guarded(async () => {
    if (uploading()) return; // one at a time
    const old = state.scan;
    const scan = await api.newScan();
    let facts;
    try {
      say(`Sending ${files.length === 1 ? files[0].name : `${files.length} files`}`);
      await upload(scan, files);
      facts = await work(await api.begin('POST', `/api/scans/${scan}/open`, { instead: old }));
    } catch (error) {
      api.closeScan(scan).catch(() => {});
      throw error;
    }
    if (!facts) { say('Cancelled.'); api.closeScan(scan).catch(() => {}); return; }
    if (old) api.closeScan(old).catch(() => {});
    await show(facts);
  });
}

async function show(facts) {
  say(`Showing ${facts.file}`);
  const buffer = await api.image(facts.scan);
  state.scan = facts.scan;
  state.facts = facts;
  [state.layers, state.clicks, state.chosen] = [facts.layers, facts.clicks, null];
  history.replaceState(null, '', `${location.search}#${facts.scan}`);
  await viewer.show(buffer, facts);
  $('file').textContent = facts.file;
  $('size').textContent = `${facts.size.join(' × ')} voxels of ${facts.spacing.map((mm) => +mm.toFixed(3)).join(' × ')} mm`
    + (facts.steps.some((n) => n > 1) ? `, shown every ${Math.max(...facts.steps)} voxels` : '');
  $('facts').title = $('facts').textContent;
  sides();
  pickWindow('bone');
  pressed('layouts', 'layout', 'all');
  setMode('look');
  for (const name of hidden.keys()) hidden.delete(name);
  listAll();
  if (Object.keys(state.layers).length) viewer.setDrawn(await api.drawn(state.scan));
  refresh();
  $('checks').open = facts.warnings.length > 0;
  say(`${facts.file} is open.`);
  $('viewer').focus();
  for (const task of facts.tasks || []) await again(task);
}

function sides() {
  const { oriented, code, tilt } = state.facts;
  const badge = $('sides');
  badge.hidden = false;
  badge.classList.toggle('doubt', !oriented || tilt > 5);
  badge.textContent = oriented ? `Sides from the header (${code}${tilt > 0.5 ? `, tilted by ${tilt}°` : ''})` : 'Sides unknown';
  badge.title = oriented
    ? 'R right, L left, A front, P back, S top, I bottom of the patient, as the file states them. The patient’s right is on the left of axial and coronal pictures.'
    : 'The file does not say how it lies in the patient: left and right may be swapped, and nothing is marked.';
}

function forget(why) {
  [state.scan, state.facts, state.layers, state.clicks, state.chosen] = [null, null, {}, [], null];
  history.replaceState(null, '', location.search || '/');
  viewer.facts = null;
  $('marks').replaceChildren();
  $('file').textContent = $('size').textContent = '';
  $('sides').hidden = true;
  listAll();
  refresh();
  say(why, true);
}

// After the page was loaded anew: what was open, and what is still being worked on.
async function again(task) {
  const result = await work(task);
  if (result?.layer) await took(result);
}

// --- looking

function pressed(group, key, value) {
  for (const button of $(group).children) button.setAttribute('aria-pressed', String(button.dataset[key] === value));
}

function pickWindow(name) {
  viewer.setWindow(...state.facts.windows[name]);
  pressed('windows', 'window', name);
}

function pickLayout(name) {
  viewer.setLayout(name);
  pressed('layouts', 'layout', name);
}

viewer.windowed = ([low, high]) => {
  $('window').textContent = `window ${+low.toPrecision(4)} to ${+high.toPrecision(4)}`;
  const { windows } = state.facts || { windows: {} };
  const named = Object.keys(windows).find((name) => Math.abs(windows[name][0] - low) < 1 && Math.abs(windows[name][1] - high) < 1);
  pressed('windows', 'window', named);
};

viewer.moved = (position, value) => {
  if (!state.facts) return;
  const { patient: p, voxels: v, oriented } = state.facts;
  const at = (m, row) => m[3 * row] * position[0] + m[3 * row + 1] * position[1] + m[3 * row + 2] * position[2] + m[9 + row];
  const voxel = [0, 1, 2].map((row) => Math.round(at(v, row)));
  const mm = [0, 1, 2].map((row) => at(p, row));
  const letters = [['R', 'L'], ['A', 'P'], ['S', 'I']];
  const where = oriented ? mm.map((x, i) => `${letters[i][x < 0 ? 1 : 0]} ${Math.abs(x).toFixed(1)}`).join('  ') + ' mm' : '';
  const structure = rowsShown.get(viewer.drawnAt(position));
  const place = $('place');
  place.textContent = `voxel ${voxel.join(', ')}   value ${Number.isFinite(value) ? +value.toFixed(1) : ''}   ${where}   `;
  if (structure) {
    const name = document.createElement('b');
    name.textContent = structure.title;
    place.append(name);
  }
};

// --- what was found

const hidden = new Map(); // by the number that is drawn: whether its structure is hidden
const opacity = { jaws: 0.25, sinuses: 0.3, pharynx: 0.3, other: 0.6, canals: 0.9 };
const rowsShown = new Map(); // by the number that is drawn
let allHidden = false;

function listAll() {
  const { whole, canals } = state.layers;
  rowsShown.clear();
  for (const layer of [whole, canals]) for (const row of layer?.rows || []) rowsShown.set(row.shown, { ...row, kind: layer.kind });
  chart($('chart'), whole, goTo);
  structureList($('structures'), [canals, whole], { hidden, opacity, changed: paint, goTo });
  $('found').hidden = !rowsShown.size;
  listProblems();
  listClicks();
  listSaves();
  paint();
  refresh();
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
async function took(result) {
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
  listAll();
}

async function ask(method, path, json, done) {
  await guarded(async () => {
    const scan = state.scan;
    const result = await work(await api.begin(method, `/api/scans/${scan}${path}`, json));
    if (state.scan !== scan) return; // another one was opened meanwhile
    await took(result);
    if (!result) return;
    say(done(result));
    listClicks();
    refresh();
  });
}

const segmentAll = () => state.facts && ask('POST', '/segment', { challenge: $('model').value },
  (r) => r.layer.rows.length ? `${r.layer.rows.length} structures found.` : 'No structure found.');

// --- clicks

function setMode(mode) {
  state.mode = mode;
  pressed('modes', 'mode', mode);
  $('screen').classList.toggle('clicking', mode !== 'look');
}

async function clickAt(position) {
  if (state.mode === 'look' || !state.facts) return;
  const side = state.mode;
  viewer.setClicks(state.clicks, state.chosen, { side, position });
  await ask('POST', '/clicks', { side, position }, (r) => {
    state.chosen = r.clicks.at(-1)?.id ?? null;
    const doubt = r.layer.warnings.find((line) => line.startsWith(`click ${r.clicks.length}: `));
    if (doubt) $('checks').open = true;
    return doubt || `The ${side} canal was drawn anew in ${r.seconds} s.`;
  });
  viewer.setClicks(state.clicks, state.chosen); // without the one that was waited for
}

viewer.clicked = clickAt;
const undo = () => state.layers.canals && ask('POST', '/clicks/undo', undefined, () => 'Undone.');
const remove = () => state.chosen !== null && ask('DELETE', `/clicks/${state.chosen}`, undefined, () => 'The click was removed.');
const move = () => state.chosen !== null
  && ask('POST', `/clicks/${state.chosen}`, { position: viewer.position() }, () => 'The click was moved.');

function choose(click) {
  state.chosen = click.id;
  viewer.goTo(click.position);
  listClicks();
  refresh();
}

function nextClick(by = 1) {
  if (!state.clicks.length) return;
  const now = state.clicks.findIndex((click) => click.id === state.chosen);
  const count = state.clicks.length;
  choose(state.clicks[now < 0 ? (by > 0 ? 0 : count - 1) : (now + by + count) % count]);
}

function listClicks() {
  $('clicks').replaceChildren(...state.clicks.map((click, i) => {
    const item = document.createElement('li');
    item.id = `click-${click.id}`;
    item.setAttribute('role', 'option');
    item.setAttribute('aria-selected', String(click.id === state.chosen));
    const swatch = document.createElement('i');
    swatch.className = `swatch ${click.side}`;
    const where = document.createElement('span');
    where.textContent = [...click.voxel].reverse().join(', ');
    item.append(swatch, `${i + 1}  ${click.side}`, where);
    item.onclick = () => choose(click);
    return item;
  }));
  if (state.chosen === null) $('clicks').removeAttribute('aria-activedescendant');
  else $('clicks').setAttribute('aria-activedescendant', `click-${state.chosen}`);
  $('clicks').hidden = !state.clicks.length;
  $('no-clicks').hidden = Boolean(state.clicks.length);
  viewer.setClicks(state.clicks, state.chosen);
}

$('clicks').onkeydown = (e) => {
  if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
    nextClick(e.key === 'ArrowDown' ? 1 : -1);
    e.preventDefault();
    e.stopPropagation();
  }
};

// --- saving and loading

const SAVES = [['labels', '.nii.gz', 'Label map'], ['segments', '.seg.nrrd', 'Segmentation for 3D Slicer'], ['meshes', 'STL', 'A mesh of every structure'], ['report', 'Report', 'A page to read and print']];

function listSaves() {
  const rows = [['whole', 'Everything', SAVES], ['canals', 'Canals', [...SAVES.slice(0, 3), ['clicks', 'Clicks', 'The click file, in Grand Challenge’s form']]]];
  $('saves').replaceChildren(...rows.map(([kind, title, buttons]) => {
    const row = document.createElement('div');
    row.className = 'row';
    const name = document.createElement('b');
    name.textContent = title;
    row.append(name, ...buttons.map(([what, label, hint]) => {
      const button = document.createElement('button');
      button.textContent = label;
      button.title = hint;
      button.id = `save-${kind}-${what}`;
      button.disabled = !state.layers[kind];
      button.onclick = () => save(kind, what);
      return button;
    }));
    return row;
  }));
}

const save = (kind, what) => guarded(async () => {
  const scan = state.scan;
  const result = await work(await api.begin('POST', `/api/scans/${scan}/saved`, { kind, what }));
  if (state.scan !== scan) return;
  if (!result) { say('Cancelled: nothing was saved.'); return; }
  if (kind === 'canals' && what !== 'clicks') await current();
  const link = document.createElement('a');
  link.href = `/api/scans/${state.scan}/saved/${encodeURIComponent(result.saved)}`;
  link.download = result.saved;
  link.click();
  say(`Saved ${result.saved}.`);
});

// Saving canals may have replaced the quick answer by the full one.
async function current() {
  const facts = await api.scanFacts(state.scan);
  state.layers = facts.layers;
  viewer.setDrawn(await api.drawn(state.scan));
  listAll();
}

const loadFile = (input, to, more, done) => async () => {
  const [file] = input.files;
  input.value = '';
  if (!file) return;
  await guarded(async () => {
    const scan = state.scan;
    const task = await (await api.send(scan, to, file.name, file, more())).json();
    const result = await work(task);
    if (state.scan !== scan) return;
    await took(result);
    if (result) say(done(file));
  });
};
$('clicks-file').onchange = loadFile($('clicks-file'), 'clicks', () => ({}), (file) => `Clicks of ${file.name} taken.`);
$('labels-file').onchange = loadFile($('labels-file'), 'labels', () => ({ challenge: $('model').value }), (file) => `Showing ${file.name}.`);
$('load-clicks').onclick = () => $('clicks-file').click();
$('load-labels').onclick = () => $('labels-file').click();

// --- buttons, keys, dropping

const openFiles = () => $('scan-files').click();
$('open').onclick = $('open-here').onclick = openFiles;
$('open-folder').onclick = () => $('scan-folder').click();
for (const id of ['scan-files', 'scan-folder']) {
  $(id).onchange = () => { const files = picked($(id).files); $(id).value = ''; open(files); };
}
$('segment').onclick = segmentAll;
$('undo').onclick = undo;
$('remove').onclick = remove;
$('move').onclick = move;
$('reset').onclick = () => viewer.reset();
$('keys').onclick = () => $('help').showModal();
$('layouts').onclick = (e) => e.target.dataset.layout && pickLayout(e.target.dataset.layout);
$('windows').onclick = (e) => e.target.dataset.window && pickWindow(e.target.dataset.window);
$('modes').onclick = (e) => { const button = e.target.closest('button'); if (button) { setMode(button.dataset.mode); $('viewer').focus(); } };
$('model').onchange = () => tellDemo();

function nextLayout() {
  const names = [...$('layouts').children].map((button) => button.dataset.layout);
  pickLayout(names[(names.indexOf(viewer.layout) + 1) % names.length]);
}

const ACTIONS = {
  arrowleft: (e) => viewer.step(e.shiftKey ? -10 : -1, 0, 0),
  arrowright: (e) => viewer.step(e.shiftKey ? 10 : 1, 0, 0),
  arrowup: (e) => viewer.step(0, e.shiftKey ? 10 : 1, 0),
  arrowdown: (e) => viewer.step(0, e.shiftKey ? -10 : -1, 0),
  pageup: (e) => viewer.step(0, 0, e.shiftKey ? 10 : 1),
  pagedown: (e) => viewer.step(0, 0, e.shiftKey ? -10 : -1),
  x: () => say(`Keys move in the ${viewer.nextPlane()} plane.`),
  v: nextLayout,
  '+': () => viewer.zoom(1.25),
  '=': () => viewer.zoom(1.25),
  '-': () => viewer.zoom(0.8),
  0: () => viewer.reset(),
  b: () => pickWindow('bone'),
  t: () => pickWindow('teeth'),
  s: () => pickWindow('soft'),
  a: () => pickWindow('full'),
  g: segmentAll,
  l: () => setMode('left'),
  r: () => setMode('right'),
  escape: () => setMode('look'),
  enter: () => (state.mode === 'look' ? say('Choose a side first: L or R.') : clickAt(viewer.position())),
  n: () => nextClick(),
  m: move,
  delete: remove,
  backspace: remove,
  u: undo,
  h: () => { allHidden = !allHidden; paint(); say(allHidden ? 'What was found is hidden.' : 'What was found is shown.'); },
};

listen(ACTIONS, { help: $('help'), list: $('key-list'), viewer: $('viewer'), open: openFiles, undo, ready: () => state.facts });

for (const kind of ['dragenter', 'dragover']) {
  addEventListener(kind, (e) => { e.preventDefault(); $('screen').classList.add('over'); });
}
addEventListener('dragleave', (e) => { if (!e.relatedTarget) $('screen').classList.remove('over'); });
addEventListener('drop', async (e) => {
  e.preventDefault();
  $('screen').classList.remove('over');
  open(await dropped(e.dataTransfer));
});

// --- the start

function tellDemo() {
  $('demo').hidden = !state.about.models.some((m) => m.challenge === $('model').value && m.demo);
}

await guarded(async () => {
  refresh();
  listSaves();
  state.about = await api.about();
  $('model').append(...state.about.models.filter((m) => !m.clicks).map((m) => new Option(m.title.replace(/^[^:]*: /, ''), m.challenge)));
  tellDemo();
  try {
    await viewer.start();
  } catch (error) {
    console.error(error);
    throw new api.Refused('This browser shows no WebGL 2 graphics, which the page needs.');
  }
  refresh();
  say('Open a scan to begin.');
  const name = location.hash.slice(1);
  if (/^[\w-]{10,40}$/.test(name)) {
    const facts = await api.scanFacts(name).catch(() => null);
    if (facts?.file) await show(facts);
    else history.replaceState(null, '', location.search || '/');
  }
});
// The server closes scans that nobody looks at any more.
setInterval(() => state.scan && guarded(() => api.scanFacts(state.scan)), 60_000);
window.umamba2.ready = true;
