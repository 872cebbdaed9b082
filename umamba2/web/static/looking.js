// Looking: windows, layouts, and what lies under the crosshair.

import { $, pressed, state, viewer } from './page.js';
import { rowsShown } from './found.js';

export function pickWindow(name) {
  viewer.setWindow(...state.facts.windows[name]);
  pressed('windows', 'window', name);
}

export function pickLayout(name) {
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

export function nextLayout() {
  const names = [...$('layouts').children].map((button) => button.dataset.layout);
  pickLayout(names[(names.indexOf(viewer.layout) + 1) % names.length]);
}
