// Clicks on the canals.

import { ask } from './found.js';
import { $, drawnWithAll, pressed, refresh, state, viewer } from './page.js';

export function setMode(mode) {
  state.mode = mode;
  pressed('modes', 'mode', mode);
  $('screen').classList.toggle('clicking', mode !== 'look');
}

export async function clickAt(position) {
  if (state.mode === 'look' || !state.facts) return;
  const side = state.mode;
  viewer.setClicks(state.clicks, state.chosen, { side, position });
  await ask('POST', '/clicks', { side, position }, (r) => {
    state.chosen = r.clicks.at(-1)?.id ?? null;
    const what = `clicks: found click ${r.clicks.length} (`; // behind the name of the scan
    const doubt = r.layer.warnings.find((line) => line.includes(what));
    if (doubt) $('checks').open = true;
    return doubt || `The ${side} canal was drawn anew in ${r.seconds} s.`;
  });
  listClicks(); // without the one that was waited for, and with the new one chosen
  refresh();
}

viewer.clicked = clickAt;
export const undo = () => state.layers.canals && ask('POST', '/clicks/undo', undefined, () => 'Undone.');
export const remove = () => state.chosen !== null && ask('DELETE', `/clicks/${state.chosen}`, undefined, () => 'The click was removed.');
export const move = () => state.chosen !== null
  && ask('POST', `/clicks/${state.chosen}`, { position: viewer.position() }, () => 'The click was moved.');

function choose(click) {
  state.chosen = click.id;
  viewer.goTo(click.position);
  listClicks();
  refresh();
}

export function nextClick(by = 1) {
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

drawnWithAll(listClicks);

$('clicks').onkeydown = (e) => {
  if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
    nextClick(e.key === 'ArrowDown' ? 1 : -1);
    e.preventDefault();
    e.stopPropagation();
  }
};
