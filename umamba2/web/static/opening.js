// Opening a scan, and showing it.

import * as api from './api.js';
import { setMode } from './clicks.js';
import { hidden, took } from './found.js';
import { pickWindow } from './looking.js';
import { $, drawAll, guarded, pressed, say, state, viewer } from './page.js';
import { upload, uploading, work } from './progress.js';

export async function open(files) {
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

export async function show(facts) {
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
  hidden.clear();
  drawAll();
  if (Object.keys(state.layers).length) viewer.setDrawn(await api.drawn(state.scan));
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

// After the page was loaded anew: what was open, and what is still being worked on.
async function again(task) {
  const result = await work(task);
  if (result?.layer) await took(result);
}
