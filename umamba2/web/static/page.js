// What all parts of the page share: what is open, what is said, which buttons can be pressed.

import * as api from './api.js';
import { Viewer } from './viewer.js';

export const $ = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
export const viewer = new Viewer($('viewer'), $('marks'), { render: asked.get('render') !== '0' });
// scan: its name on the server; facts: what the server says of it; layers: what was found, by kind
export const state = { about: null, scan: null, facts: null, layers: {}, clicks: [], chosen: null, mode: 'look', acting: 0 };
window.umamba2 = { state, viewer }; // for tests, and for whoever is curious

export function say(text, wrong = false) {
  $('said').textContent = text;
  $('said').classList.toggle('wrong', wrong);
}

export async function guarded(what) {
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

export function refresh() {
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

const lists = [];

// Have a list drawn whenever what it shows may have changed.
export const drawnWithAll = (draw) => lists.push(draw);

export function drawAll() {
  for (const draw of lists) draw();
  refresh();
}

export function forget(why) {
  [state.scan, state.facts, state.layers, state.clicks, state.chosen] = [null, null, {}, [], null];
  history.replaceState(null, '', location.search || '/');
  viewer.facts = null;
  $('marks').replaceChildren();
  $('file').textContent = $('size').textContent = '';
  $('sides').hidden = true;
  drawAll();
  say(why, true);
}

export function pressed(group, key, value) {
  for (const button of $(group).children) button.setAttribute('aria-pressed', String(button.dataset[key] === value));
}
