// Saving what was found, and loading what somebody has.

import * as api from './api.js';
import { took } from './found.js';
import { $, drawAll, drawnWithAll, guarded, say, state, viewer } from './page.js';
import { work } from './progress.js';

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

drawnWithAll(listSaves);

const save = (kind, what) => guarded(async () => {
  const scan = state.scan;
  const result = await work(await api.begin('POST', `/api/scans/${scan}/saved`, { kind, what }));
  if (state.scan !== scan) return;
  if (kind === 'canals' && what !== 'clicks') await current();
  if (!result) { say('Cancelled: nothing was saved.'); return; }
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
  drawAll();
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
