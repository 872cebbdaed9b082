// The keys: what each does is the page's, which hears them wherever the focus is, and how people learn of them.

const KEYS = [
  ['O', 'open a scan'],
  ['Arrow keys', 'move the crosshair in the plane with the blue name; with Shift, ten voxels'],
  ['Page Up, Page Down', 'go through its slices'],
  ['X', 'the next plane'],
  ['V', 'the next layout'],
  ['+  −  0', 'nearer, farther, all of the scan'],
  ['B  T  S  A', 'window: bone, teeth, soft tissue, all values'],
  ['G', 'segment everything'],
  ['L  R  Escape', 'click on the left canal, on the right canal, only look'],
  ['Enter', 'click at the crosshair'],
  ['N', 'choose the next click and go there'],
  ['M', 'move the chosen click to the crosshair'],
  ['Delete', 'remove the chosen click'],
  ['U', 'undo'],
  ['H', 'hide or show what was found'],
  ['Mouse', 'left: crosshair or click; wheel: slices; right, or Control and left: window; middle, or Shift and left: pan'],
];
const ON_VIEWER = new Set(['arrowleft', 'arrowright', 'arrowup', 'arrowdown', 'pageup', 'pagedown', 'enter']);

// actions: by the name of the key; ready: whether there is a scan that they are about.
export function listen(actions, { help, list, viewer, open, undo, ready }) {
  list.append(...KEYS.flatMap(([keys, what]) => {
    const [term, text] = [document.createElement('dt'), document.createElement('dd')];
    [term.textContent, text.textContent] = [keys, what];
    return [term, text];
  }));
  addEventListener('keydown', (e) => {
    if (e.altKey || e.metaKey || help.open) return;
    const key = e.key.toLowerCase();
    const typing = e.target.matches('input, select, textarea');
    if (e.ctrlKey) {
      if (key === 'z' && !typing) { e.preventDefault(); undo(); }
      return;
    }
    if (typing && key !== 'escape') return;
    if (key === '?') { help.showModal(); return; }
    if (key === 'o') { open(); return; }
    if (!ready() || !actions[key] || (ON_VIEWER.has(key) && e.target !== viewer && e.target !== document.body)) return;
    e.preventDefault();
    actions[key](e);
  }, true);
}
