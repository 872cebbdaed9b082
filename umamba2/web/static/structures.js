// The tooth chart and the list of structures.

const UPPER = [18, 17, 16, 15, 14, 13, 12, 11, 21, 22, 23, 24, 25, 26, 27, 28];
const LOWER = [48, 47, 46, 45, 44, 43, 42, 41, 31, 32, 33, 34, 35, 36, 37, 38];
const css = ([r, g, b]) => `rgb(${r}, ${g}, ${b})`;
const isDark = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b < 115;

function element(kind, className, text = '') {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  return made;
}

// FDI numbers as dentists draw them: the patient's right on the left. `layer.teeth`: those whose place the scan shows.
export function chart(place, layer, goTo) {
  place.hidden = !layer?.teeth;
  if (place.hidden) return;
  const found = new Map(layer.rows.filter((row) => row.fdi).map((row) => [row.fdi, row]));
  const inField = new Set(layer.teeth);
  const cells = [];
  for (const [i, arch] of [UPPER, LOWER].entries()) {
    if (!i) cells.push(element('span', 'side', 'R'));
    for (const fdi of arch) {
      const row = found.get(fdi);
      const cell = element(row ? 'button' : 'span', 'tooth', String(fdi));
      if (fdi === 21 || fdi === 31) cell.classList.add('middle');
      if (row) {
        cell.style.background = css(row.colour);
        cell.classList.toggle('dark', isDark(row.colour));
        cell.title = `${row.title}: ${row.volume}`;
        cell.onclick = () => goTo(row);
      } else {
        cell.classList.add(inField.has(fdi) ? 'absent' : 'outside');
        cell.title = inField.has(fdi) ? 'not found' : 'not judged: the scan may not show its place';
      }
      cells.push(cell);
    }
    if (!i) cells.push(element('span', 'side', 'L'));
  }
  place.replaceChildren(...cells);
}

// Groups of structures with a box to show and a slider for the opacity of each, below them the structures.
export function structureList(place, layers, { hidden, opacity, changed, goTo }) {
  const groups = [];
  for (const layer of layers) {
    if (!layer) continue;
    const names = [...new Set(layer.rows.map((row) => row.group))];
    for (const name of names) {
      const own = layer.kind === 'canals';
      const title = own ? 'Canals by clicks' : name;
      groups.push(group(title, own ? 'canals' : name === 'canals' ? 'other' : name, layer.rows.filter((row) => row.group === name)));
    }
  }
  place.replaceChildren(...groups);

  function group(title, key, rows) {
    const box = element('div', 'group');
    const head = element('div', 'head');
    const all = check(`Show ${title}`, rows.every((row) => !hidden.get(row.shown)), (on) => {
      for (const row of rows) hidden.set(row.shown, !on);
      for (const input of box.querySelectorAll('.structure input')) input.checked = on;
      changed();
    });
    const slider = element('input', '');
    Object.assign(slider, { type: 'range', min: 0, max: 100, value: 100 * (opacity[key] ?? opacity.other), title: 'Opacity' });
    slider.setAttribute('aria-label', `Opacity of ${title}`);
    slider.oninput = () => { opacity[key] = slider.value / 100; changed(); };
    head.append(all, element('h3', '', title), slider);
    box.append(head, ...rows.map((row) => structure(row, all)));
    return box;
  }

  function structure(row, all) {
    const line = element('div', 'structure');
    line.dataset.shown = row.shown;
    const swatch = element('i', 'swatch');
    swatch.style.background = css(row.colour);
    const name = element('button', '', row.title);
    name.title = row.centre ? `${row.title}: go there` : row.title;
    name.onclick = () => goTo(row);
    const box = check(`Show ${row.title}`, !hidden.get(row.shown), (on) => {
      hidden.set(row.shown, !on);
      all.checked = [...all.closest('.group').querySelectorAll('.structure input')].every((input) => input.checked);
      changed();
    });
    const volume = element('span', 'volume', row.cut ? `≥ ${row.volume}` : row.volume);
    if (row.cut) volume.title = 'It reaches the edge of the scan: some of it may be outside.';
    line.append(box, swatch, name, volume);
    return line;
  }
}

function check(label, on, changed) {
  const box = element('input', '');
  Object.assign(box, { type: 'checkbox', checked: on, onchange: () => changed(box.checked) });
  box.setAttribute('aria-label', label);
  return box;
}
