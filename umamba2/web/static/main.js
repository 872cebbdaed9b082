// The page: what the buttons and keys do, and how it starts.

import * as api from './api.js';
import { clickAt, move, nextClick, remove, setMode, undo } from './clicks.js';
import { dropped, picked } from './files.js';
import { hideOrShowAll, segmentAll } from './found.js';
import { listen } from './keys.js';
import { nextLayout, pickLayout, pickWindow } from './looking.js';
import { open, show } from './opening.js';
import { $, drawAll, guarded, refresh, say, state, viewer } from './page.js';
import { cancel } from './progress.js';
import './saving.js';

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
$('cancel').onclick = () => guarded(cancel);

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
  h: hideOrShowAll,
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
  drawAll();
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
