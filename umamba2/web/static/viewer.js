// NiiVue, told what to show. Positions are mm (x, y, z) on the grid that the server sends: from voxel 0, turned to RAS.
// They are worked out from the crosshair's place in the whole here, not taken from NiiVue's mm or voxels, which count in
// grids of its own.

const PLANES = ['axial', 'coronal', 'sagittal', '', 'render'];
const DEPTH = [2, 1, 0]; // the axis (x 0, y 1, z 2) across each plane
// The patient's sides at the left, right, top and bottom of each picture.
const LETTERS = [['R', 'L', 'A', 'P'], ['R', 'L', 'S', 'I'], ['P', 'A', 'S', 'I']];
const FROM_FRONT = [200, 12]; // degrees around, and up
const THIN = 0.0015; // of the scan's longest side, mm: how wide the crosshair is
const NEAR = 2; // slices beside a click in which its mark still shows, fading

export class Viewer {
  constructor(canvas, marks, { render = true } = {}) {
    this.canvas = canvas;
    this.marks = marks;
    this.render = render;
    this.facts = null;
    this.clicks = [];
    this.chosen = null;
    this.waiting = null;
    this.plane = 0; // which the keys move in
    this.layout = 'all';
    this.moved = () => {};
    this.windowed = () => {};
    this.clicked = () => {};
  }

  async start() {
    const { Niivue, DRAG_MODE } = window.niivue;
    this.nv = new Niivue({
      backColor: [0.02, 0.025, 0.03, 1],
      crosshairColor: [0.55, 0.73, 0.88, 0.75],
      crosshairWidthUnit: 'mm',
      crosshairGap: 8,
      isOrientationTextVisible: false, // the page writes its own, legible ones
      smoothDrawing: 1,
      show3Dcrosshair: true,
      isRadiologicalConvention: true,
      dragAndDropEnabled: false,
      loadingText: '',
      logLevel: 'error',
      multiplanarPadPixels: 2,
      isAlphaClipDark: true,
      mouseEventConfig: {
        leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.pan, withCtrl: DRAG_MODE.windowing },
        rightButton: DRAG_MODE.windowing,
        centerButton: DRAG_MODE.pan,
      },
    });
    await this.nv.attachToCanvas(this.canvas);
    // NiiVue draws after every change, and 3-D takes its time: once a frame is enough.
    const draw = this.nv.drawScene.bind(this.nv);
    let due = false;
    this.nv.drawScene = () => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => { due = false; draw(); this.placeMarks(); });
    };
    this.nv.onLocationChange = (place) => this.moved(this.position(), place.values[0]?.value);
    this.nv.onIntensityChange = () => this.windowed(this.window());
    this.listen();
  }

  listen() {
    let down = null;
    this.canvas.addEventListener('pointerdown', (e) => { down = e.button === 0 && !e.shiftKey && !e.ctrlKey ? [e.clientX, e.clientY] : null; });
    // The viewer moves the crosshair on mousedown and mouseup; a click is what ends where it began.
    this.canvas.addEventListener('click', (e) => {
      if (!down || Math.hypot(e.clientX - down[0], e.clientY - down[1]) > 4) return;
      const plane = this.planeAt(e);
      if (plane === null) return;
      this.plane = plane;
      this.placeMarks();
      this.clicked(this.position());
    });
    // Keys are the page's: none of NiiVue's own.
    for (const kind of ['keydown', 'keyup']) this.canvas.addEventListener(kind, (e) => e.stopImmediatePropagation(), true);
  }

  planeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    const tile = this.nv.tileIndex((event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
    const plane = tile < 0 ? 4 : this.nv.screenSlices[tile].axCorSag;
    return plane <= 2 ? plane : null;
  }

  async show(buffer, facts) {
    this.facts = null;
    this.nv.closeDrawing();
    while (this.nv.volumes.length) this.nv.removeVolume(this.nv.volumes[0]);
    const volume = await window.niivue.NVImage.new(buffer, 'scan.nii', 'gray', 1, null, ...facts.windows.bone);
    this.nv.addVolume(volume);
    this.facts = facts;
    this.nv.createEmptyDrawing();
    this.nv.drawOpacity = 1;
    this.setLayout('all');
    this.nv.setRenderAzimuthElevation(...FROM_FRONT);
    this.nv.setScale(1.25);
    const { shape, spacing } = this.grid();
    this.nv.opts.crosshairWidth = THIN * Math.max(...shape.map((n, i) => n * spacing[i]));
    this.reset();
  }

  // --- where the crosshair is

  position() {
    const { shape, spacing } = this.grid();
    return [0, 1, 2].map((i) => Math.min(Math.max(this.nv.scene.crosshairPos[i] * shape[i] - 0.5, 0), shape[i] - 1) * spacing[i]);
  }

  goTo(position) {
    const { shape, spacing } = this.grid();
    this.nv.scene.crosshairPos = [0, 1, 2].map((i) => (position[i] / spacing[i] + 0.5) / shape[i]);
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }

  grid() {
    const dims = this.nv.volumes[0].dimsRAS;
    const mm = this.nv.volumes[0].pixDimsRAS;
    return { shape: [dims[1], dims[2], dims[3]], spacing: [mm[1], mm[2], mm[3]] };
  }

  // Move the crosshair by voxels to the right and up of the active plane's picture, and through its slices.
  step(right, up, through) {
    const by = [0, 0, 0];
    const left = this.plane < 2 ? -1 : 1; // the patient's right is on the left of axial and coronal pictures
    const [across, upwards] = [[0, 1], [0, 2], [1, 2]][this.plane];
    by[across] += right * left;
    by[upwards] += up;
    by[DEPTH[this.plane]] += through;
    const { shape, spacing } = this.grid();
    this.goTo(this.position().map((mm, i) => Math.min(Math.max(Math.round(mm / spacing[i]) + by[i], 0), shape[i] - 1) * spacing[i]));
  }

  nextPlane() {
    this.plane = (this.plane + 1) % 3;
    if (!['all', 'render'].includes(this.layout)) this.setLayout(PLANES[this.plane]);
    this.placeMarks();
    return PLANES[this.plane];
  }

  // --- how it looks

  setLayout(name) {
    this.layout = name;
    const { SLICE_TYPE } = window.niivue;
    const type = { axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL, render: SLICE_TYPE.RENDER };
    if (type[name] !== undefined) {
      this.nv.clearCustomLayout();
      this.nv.setSliceType(type[name]);
      if (name !== 'render') this.plane = PLANES.indexOf(name);
      return;
    }
    this.nv.setSliceType(SLICE_TYPE.MULTIPLANAR);
    const places = this.render
      ? [['axial', 0, 0], ['coronal', 0.5, 0], ['sagittal', 0, 0.5], ['render', 0.5, 0.5]].map(([k, x, y]) => [k, x, y, 0.498, 0.498])
      : [['axial', 0, 0, 0.498, 1], ['coronal', 0.5, 0, 0.5, 0.498], ['sagittal', 0.5, 0.5, 0.5, 0.498]];
    this.nv.setCustomLayout(places.map(([kind, ...position]) => ({ sliceType: type[kind], position })));
  }

  reset() {
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
    const { shape, spacing } = this.grid();
    this.goTo(shape.map((n, i) => Math.floor(n / 2) * spacing[i]));
  }

  zoom(factor) {
    const [x, y, z, now] = this.nv.scene.pan2Dxyzmm;
    this.nv.setPan2Dxyzmm([x, y, z, Math.min(Math.max(now * factor, 0.5), 12)]);
  }

  window() {
    const volume = this.nv.volumes[0];
    return [volume.cal_min, volume.cal_max];
  }

  setWindow(low, high) {
    const volume = this.nv.volumes[0];
    [volume.cal_min, volume.cal_max] = [low, high];
    this.nv.updateGLVolume();
    this.windowed([low, high]);
  }

  // --- what was found

  // colours: by the number that is drawn, [red, green, blue, opacity 0 to 1]
  setColours(colours) {
    const map = { R: [], G: [], B: [], A: [], I: [], labels: [] };
    for (let i = 0; i < 256; i++) {
      const [r, g, b, opacity] = colours.get(i) || [0, 0, 0, 0];
      map.R.push(r); map.G.push(g); map.B.push(b); map.A.push(Math.round(255 * opacity)); map.I.push(i); map.labels.push('');
    }
    this.nv.setDrawColormap(map);
  }

  // Take in a box [[z, y, x], [z, y, x]] of what is drawn; null: all of it.
  setDrawn(values, box) {
    const bitmap = this.nv.drawBitmap;
    if (!box) {
      bitmap.set(values);
    } else {
      const [[z0, y0, x0], [z1, y1, x1]] = box;
      const [nx, ny] = this.grid().shape;
      const width = x1 - x0;
      let from = 0;
      for (let z = z0; z < z1; z++) {
        for (let y = y0; y < y1; y++, from += width) bitmap.set(values.subarray(from, from + width), (z * ny + y) * nx + x0);
      }
    }
    this.nv.refreshDrawing(true);
  }

  drawnAt(position) {
    const { shape, spacing } = this.grid();
    const [x, y, z] = position.map((mm, i) => Math.round(mm / spacing[i]));
    return this.nv.drawBitmap[(z * shape[1] + y) * shape[0] + x];
  }

  // --- the marks of clicks, and the planes' names

  setClicks(clicks, chosen, waiting = null) {
    [this.clicks, this.chosen, this.waiting] = [clicks, chosen, waiting];
    this.placeMarks();
  }

  placeMarks() {
    if (!this.facts) return;
    const parts = [];
    const scale = this.canvas.getBoundingClientRect().width / this.canvas.width;
    const { shape, spacing } = this.grid();
    const here = this.position();
    for (const tile of this.nv.screenSlices) {
      const plane = tile.axCorSag;
      if (plane > 2) continue;
      const depth = DEPTH[plane];
      const name = document.createElement('span');
      name.className = `plane${plane === this.plane ? ' active' : ''}`;
      name.textContent = PLANES[plane];
      const [left, top, width, height] = tile.leftTopWidthHeight.map((px) => px * scale);
      [name.style.left, name.style.top] = [`${left}px`, `${top}px`];
      parts.push(name);
      if (this.facts.oriented) {
        for (const [i, kind, x, y] of [[0, 'l', 0, 0.5], [1, 'r', 1, 0.5], [2, 't', 0.5, 0], [3, 'b', 0.5, 1]]) {
          const letter = document.createElement('span');
          letter.className = `letter ${kind}`;
          letter.textContent = LETTERS[plane][i];
          [letter.style.left, letter.style.top] = [`${left + x * width}px`, `${top + y * height}px`];
          parts.push(letter);
        }
      }
      const all = this.waiting ? [...this.clicks, { ...this.waiting, waiting: true }] : this.clicks;
      for (const click of all) {
        const away = Math.abs(click.position[depth] - here[depth]) / spacing[depth];
        if (away > NEAR + 0.5) continue;
        const place = click.position.map((mm, i) => (i === depth ? this.nv.scene.crosshairPos[i] : (mm / spacing[i] + 0.5) / shape[i]));
        const spot = this.nv.frac2canvasPosWithTile(place, plane);
        if (!spot) continue;
        const mark = document.createElement('span');
        mark.className = `mark ${click.side}${click.id === this.chosen && !click.waiting ? ' chosen' : ''}${click.waiting ? ' waiting' : ''}`;
        mark.style.left = `${spot.pos[0] * scale}px`;
        mark.style.top = `${spot.pos[1] * scale}px`;
        mark.style.opacity = 1 - away / (NEAR + 1);
        parts.push(mark);
      }
    }
    this.marks.replaceChildren(...parts);
  }
}
