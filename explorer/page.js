'use strict';
const MAP = 5;                      // Images in a row of the map.
const MAP_SECONDS = 20;             // A map that would take longer is not drawn.
const MAP_REQUEST_SECONDS = 0.3;    // Longest time that a request of the map may delay the large image.
const MAP_CELL = 128;               // Largest side of an image in the map, in pixels.
const MAP_EDGE = MAP / (MAP - 1);   // Coordinate of the map's edge; the outer images have their centres at 1.
const element = id => document.getElementById(id);
const state = {
  network: null, history: [], at: -1,
  anchor: null, directions: [], place: [0, 0],          // The map: latents of its centre, its two axes, the cross.
  map: null,                                            // Token of the drawing in progress.
  kept: [], revision: 0, playing: null, blob: null,
};

// The server.

async function ask(method, path, body) {
  const options = {method};
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = {'Content-Type': 'application/json'};
  }
  const response = await fetch(path, options).catch(() => { throw new Error('The program has ended; start it again.'); });
  if (!response.ok) throw new Error((await response.text()).trim());
  return response;
}

const askJson = async (...request) => (await ask(...request)).json();

// The network makes one picture at a time. A waiting image or map is replaced by a newer one; thumbnails queue up. A
// promise resolves when its work is done or replaced.
const waiting = {image: null, map: null, thumbnails: []};
let busy = false, working = 0;

function count(by) {                // Count the work in progress; at 0, the page is up to date.
  working += by;
  element('stage').setAttribute('aria-busy', working > 0);
}

function want(kind, work) {
  return new Promise(done => {
    if (kind === 'thumbnails') waiting.thumbnails.push({work, done});
    else {
      if (waiting[kind]) waiting[kind].done();
      waiting[kind] = {work, done};
    }
    if (!busy) workOff();
  });
}

async function workOff() {
  busy = true;
  count(1);
  for (;;) {
    const kind = waiting.image ? 'image' : waiting.map ? 'map' : 'thumbnails';
    const next = kind === 'thumbnails' ? waiting.thumbnails.shift() : waiting[kind];
    if (!next) break;
    if (kind !== 'thumbnails') waiting[kind] = null;
    document.body.classList.toggle('painting', kind === 'image');
    try { await next.work(); } catch (error) { stop(); say(error.message); }
    next.done();
  }
  busy = false;
  document.body.classList.remove('painting');
  count(-1);
}

async function images(request) {
  const response = await ask('POST', '/api/images', request), blob = await response.blob();
  const timing = /dur=([\d.]+)/.exec(response.headers.get('Server-Timing') || '');
  return {blob, bitmap: await createImageBitmap(blob), seconds: timing ? timing[1] / 1000 : 0};
}

async function paint(canvas, request) {
  const made = await images(request);
  canvas.width = made.bitmap.width;
  canvas.height = made.bitmap.height;
  canvas.getContext('2d').drawImage(made.bitmap, 0, 0);
  canvas.classList.toggle('pixelated', state.network.resolution < 256);
  return made;
}

// Points.

const number = value => +Number(value).toPrecision(9);      // Enough digits for a float32.
const psi = () => +element('psi').value;
const lod = () => +element('lod').value;
const label = () => state.network.classes.map((_name, index) => index === element('class').selectedIndex ? 1 : 0);
const length = vector => Math.hypot(...vector);

function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

function newDirections() {          // Two random directions, orthogonal to the anchor and each other, of its length.
  const basis = [state.anchor], size = length(state.anchor) || 1;
  while (basis.length < 3) {
    let vector = state.anchor.map(normal);
    for (const other of basis) {
      const square = other.reduce((sum, x) => sum + x * x, 0) || 1;
      const share = other.reduce((sum, x, i) => sum + x * vector[i], 0) / square;
      vector = vector.map((x, i) => x - share * other[i]);
    }
    const scale = size / (length(vector) || 1);
    basis.push(vector.map(x => x * scale));
  }
  state.directions = basis.slice(1);
}

function latentsAt([x, y]) {        // Rotate the anchor, which keeps its length.
  const radius = Math.hypot(x, y), angle = radius * element('reach').value;
  if (!radius) return state.anchor;
  const [a, b] = state.directions, sine = Math.sin(angle) / radius;
  return state.anchor.map((z, i) => number(Math.cos(angle) * z + sine * (x * a[i] + y * b[i])));
}

const pointAt = place => ({latents: latentsAt(place), label: label(), psi: psi(), lod: lod()});
const present = () => pointAt(state.place);
const plain = kept => ({latents: kept.latents, label: kept.label, psi: kept.psi, lod: clampLod(kept.lod)});
const clampLod = value => Math.min(Math.max(value, state.network.lods[0]), state.network.lods[1]);

// Showing.

function show({map = true} = {}) {
  stop();
  const point = present();
  want('image', async () => {
    const painted = await paint(element('image'), {points: [point]});
    state.blob = painted.blob;
    facts(element('image').width, painted.seconds);
    if (map) drawMap(painted.seconds);
  });
  if (map) element('map').classList.add('old');
  const cross = element('cross').style;
  [cross.left, cross.top] = state.place.map(x => `${(x / MAP_EDGE + 1) * 50}%`);
  element('psi-value').textContent = psi().toFixed(2);
  const level = lod(), pixels = 2 ** Math.floor(level), side = state.network.resolution / pixels;
  element('lod-value').textContent = level % 1
    ? `${level.toFixed(2)}: ${side / 2} to ${side} pixels` : `${level.toFixed(2)}: ${side} pixels`;
  element('previous').disabled = state.at <= 0;
  markShown();
}

function facts(side, seconds) {
  const {latent_size, classes} = state.network;
  element('facts').textContent = `${state.network.snapshot}: ${side} × ${side} pixels, ${latent_size} latents`
    + (classes.length ? `, ${classes.length} classes` : '')
    + `, ${seconds < 1 ? Math.max(1, Math.round(seconds * 1000)) + ' ms' : seconds.toFixed(1) + ' s'} an image`;
}

async function drawMap(seconds) {   // Draw from the centre outwards, in short requests.
  const canvas = element('map'), mine = state.map = {}, middle = (MAP - 1) / 2;
  if (seconds * MAP * MAP > MAP_SECONDS) {
    canvas.width = canvas.height = 1;
    return;
  }
  const cells = [...Array(MAP * MAP).keys()].map(i => [i % MAP, Math.floor(i / MAP)]);
  cells.sort((a, b) => Math.hypot(a[0] - middle, a[1] - middle) - Math.hypot(b[0] - middle, b[1] - middle));
  const points = cells.map(cell => pointAt(cell.map(x => x / middle - 1)));
  const step = Math.min(Math.max(Math.floor(MAP_REQUEST_SECONDS / seconds), 1), cells.length);
  count(1);
  for (let begin = 0; begin < cells.length && state.map === mine; begin += step)
    await want('map', async () => {
      const {bitmap} = await images({points: points.slice(begin, begin + step)});
      const side = bitmap.width, size = Math.min(side, MAP_CELL);
      if (!begin) canvas.width = canvas.height = MAP * size;
      cells.slice(begin, begin + step).forEach(([x, y], row) => canvas.getContext('2d').drawImage(
        bitmap, 0, row * side, side, side, x * size, y * size, size, size));
      canvas.classList.toggle('pixelated', state.network.resolution < 256);
      canvas.classList.remove('old');
    });
  count(-1);
}

function remember() {               // Add the anchor to the history.
  state.history.length = state.at + 1;
  state.history.push({anchor: state.anchor, directions: state.directions, seed: element('seed').value});
  state.at = state.history.length - 1;
}

async function showSeed(seed) {
  const {latents} = await askJson('GET', `/api/latents?seed=${encodeURIComponent(seed)}`);
  element('seed').value = seed;
  goTo(latents);
}

function goTo(latents) {
  state.anchor = latents;
  state.place = [0, 0];
  newDirections();
  remember();
  show();
}

const randomSeed = () => showSeed(Math.floor(Math.random() * 100000));

function step(by) {
  if (state.at + by < 0) return;
  if (state.at + by >= state.history.length) return randomSeed();
  state.at += by;
  const {anchor, directions, seed} = state.history[state.at];
  Object.assign(state, {anchor, directions, place: [0, 0]});
  element('seed').value = seed;
  show();
}

let messageTimer = 0;
function say(text) {
  const box = element('message');
  box.textContent = text;
  box.hidden = false;
  clearTimeout(messageTimer);
  messageTimer = setTimeout(() => { box.hidden = true; }, 5000);
}

// Files.

function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const fileName = text => text.trim().replace(/[^\p{L}\p{N}._-]+/gu, '-').replace(/^[.-]+/, '') || 'image';

function presentName() {
  const kept = state.kept.find(isShown), moved = state.place.some(x => x) || element('seed').value === '';
  return fileName(kept ? kept.name : moved ? 'image' : `seed${String(element('seed').value).padStart(4, '0')}`);
}

async function saveArrays(points, array, name) {
  save(await (await ask('POST', '/api/arrays', {points, array})).blob(), `${name}-${array}.npy`);
}

// The tray.

const isShown = kept => {
  const here = present();
  return kept.psi === here.psi && clampLod(kept.lod) === here.lod && kept.label.every((x, i) => x === here.label[i])
    && kept.latents.every((x, i) => x === here.latents[i]);
};

function markShown() {
  document.querySelectorAll('.kept').forEach((figure, index) =>
    figure.classList.toggle('shown', Boolean(state.kept[index]) && isShown(state.kept[index])));
}

let storing = Promise.resolve();
function store() {                  // One request after the other: each one needs the revision of its predecessor.
  const kept = state.kept.map(({name, ...point}) => ({name, ...point}));
  storing = storing.then(async () => {
    const answer = await askJson('PUT', '/api/kept', {kept, revision: state.revision});
    state.revision = answer.revision;
  }).catch(error => say(error.message));
  return storing;
}

function keep() {
  const point = present(), names = new Set(state.kept.map(kept => kept.name)), {classes} = state.network;
  const base = (classes.length ? classes[element('class').selectedIndex] : '').slice(0, 60) + ' #';
  let count = state.kept.length + 1;
  while (names.has((base + count).trim())) count++;
  state.kept.push({name: (base + count).trim(), ...point});
  addKept(state.kept.length - 1);
  changed();
  element('kept').lastElementChild.scrollIntoView({block: 'nearest', inline: 'end'});
}

function changed() {
  const count = state.kept.length;
  element('count').textContent = count || '';
  element('empty').hidden = count > 1;
  element('film').hidden = count < 2;
  element('save-all').disabled = !count;
  markShown();
  return store();
}

function addButton(parent, text, title, work) {
  const button = document.createElement('button');
  Object.assign(button, {textContent: text, title, onclick: work});
  button.setAttribute('aria-label', title);
  parent.append(button);
}

function addKept(index) {
  const kept = state.kept[index], figure = document.createElement('div'), canvas = document.createElement('canvas');
  const input = document.createElement('input'), tools = document.createElement('div');
  const place = () => state.kept.indexOf(kept);
  figure.className = 'kept';
  tools.className = 'tools';
  Object.assign(canvas, {width: 1, height: 1, tabIndex: 0, onclick: () => showKept(kept)});
  canvas.setAttribute('role', 'button');
  canvas.setAttribute('aria-label', 'Show ' + kept.name);
  canvas.onkeydown = event => { if (event.key === 'Enter') showKept(kept); };
  Object.assign(input, {type: 'text', value: kept.name, maxLength: 80});
  input.setAttribute('aria-label', 'Name');
  input.onchange = () => {
    input.value = kept.name = input.value.trim() || kept.name;
    store();
  };
  const move = by => {
    const from = place(), to = from + by;
    if (to < 0 || to >= state.kept.length) return;
    state.kept.splice(to, 0, ...state.kept.splice(from, 1));
    const other = by < 0 ? figure.previousElementSibling : figure.nextElementSibling.nextElementSibling;
    figure.parentNode.insertBefore(figure, other);
    changed();
  };
  addButton(tools, '‹', 'Earlier', () => move(-1));
  addButton(tools, '×', 'Remove', () => {
    state.kept.splice(place(), 1);
    figure.remove();
    stop();
    changed();
  });
  addButton(tools, '›', 'Later', () => move(1));
  figure.append(canvas, input, tools);
  element('kept').append(figure);
  want('thumbnails', () => figure.isConnected && paint(canvas, {points: [plain(kept)]}));
}

function showKept(kept) {
  const chosen = kept.label.indexOf(Math.max(...kept.label));
  if (chosen >= 0) element('class').selectedIndex = chosen;
  element('psi').value = kept.psi;
  element('lod').value = clampLod(kept.lod);
  element('seed').value = '';
  goTo(kept.latents);
}

// The interpolation.

const steps = () => state.kept.length - (element('loop').checked ? 0 : 1);

function showBetween(part) {        // Show the interpolated image at `part`, 0 to 1, of the way through the tray.
  const place = Math.min(part, 1) * steps(), last = Math.min(Math.floor(place), steps() - 1);
  const ends = [last, (last + 1) % state.kept.length].map(index => plain(state.kept[index]));
  return want('image', async () => {
    const request = {points: ends, between: [number(Math.min(place - last, 1))]};
    state.blob = (await paint(element('image'), request)).blob;
    element('time').value = part;
  });
}

async function play() {
  if (state.playing) return stop();
  if (state.kept.length < 2) return say('Keep two images first.');
  const mine = state.playing = {};
  element('play').textContent = 'Stop';
  document.body.classList.add('playing');
  let part = +element('time').value >= 1 ? 0 : +element('time').value, before = performance.now();
  while (state.playing === mine && state.kept.length > 1) {
    await showBetween(part);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    part += (now - before) / 1000 / (Math.max(+element('seconds').value, 0.1) * steps());
    before = now;
    if (part > 1) part = element('loop').checked ? part % 1 : 0;
  }
}

function stop() {
  state.playing = null;
  element('play').textContent = 'Play';
  document.body.classList.remove('playing');
}

async function exportVideo() {
  if (element('export').textContent === 'Cancel') return ask('DELETE', '/api/video');
  const format = element('format').value;
  const request = {points: state.kept.map(plain), seconds: +element('seconds').value, fps: format === 'gif' ? 20 : 30,
                   loop: element('loop').checked, format};
  let film = await askJson('POST', '/api/video', request);
  element('export').textContent = 'Cancel';
  element('progress').hidden = false;
  try {
    while (film.running) {
      element('progress').value = film.done / film.frames;
      element('progress-text').textContent = `${film.done} of ${film.frames} frames`
        + (film.seconds_left === null ? '' : `, ${Math.ceil(film.seconds_left)} s left`);
      await new Promise(done => setTimeout(done, 300));
      film = await askJson('GET', '/api/video');
    }
    if (!film.finished) throw new Error(film.error === 'cancelled' ? 'The video was cancelled.' : film.error);
    save(await (await ask('GET', '/api/video/file')).blob(), film.file);
  } finally {
    element('export').textContent = 'Export video';
    element('progress').hidden = true;
    element('progress-text').textContent = '';
  }
}

// Actions of the user.

const trying = work => async (...given) => {
  count(1);
  try { await work(...given); } catch (error) { say(error.message); } finally { count(-1); }
};

const actions = {
  random: randomSeed,
  previous: () => step(-1),
  next: () => step(1),
  keep,
  'save-png': () => state.blob && save(state.blob, presentName() + '.png'),
  'save-latents': () => saveArrays([present()], 'latents', presentName()),
  'save-labels': () => saveArrays([present()], 'labels', presentName()),
  'save-all': async () => {
    await saveArrays(state.kept.map(plain), 'latents', 'kept');
    if (state.network.classes.length) await saveArrays(state.kept.map(plain), 'labels', 'kept');
  },
  centre: () => { element('seed').value = ''; goTo(latentsAt(state.place)); },
  turn: () => { state.place = [0, 0]; newDirections(); show(); },
  play,
  export: exportVideo,
};
const KEYS = {r: 'random', ' ': 'random', ArrowLeft: 'previous', ArrowRight: 'next', k: 'keep', s: 'save-png',
              l: 'save-latents', p: 'play', c: 'centre', d: 'turn'};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, select, #pad')) return;
  if (event.key === ' ' && event.target.closest('button, canvas')) return;
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || element(action).disabled) return;
  event.preventDefault();
  element(action).click();
}

function movePad(x, y) {
  state.place = [x, y].map(value => Math.max(-MAP_EDGE, Math.min(MAP_EDGE, value)));
  show({map: false});
}

function setUpPad() {
  const pad = element('pad');
  const drag = event => {
    const box = pad.getBoundingClientRect();
    movePad(((event.clientX - box.left) / box.width * 2 - 1) * MAP_EDGE,
            ((event.clientY - box.top) / box.height * 2 - 1) * MAP_EDGE);
  };
  pad.onpointerdown = event => { pad.setPointerCapture(event.pointerId); drag(event); };
  pad.onpointermove = event => { if (event.buttons) drag(event); };
  pad.onkeydown = event => {
    const moves = {ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1]};
    if (event.key === 'Home') movePad(0, 0);
    else if (moves[event.key]) movePad(...moves[event.key].map((by, axis) => state.place[axis] + by));
    else return;
    event.preventDefault();
  };
}

function setUp() {
  const {network} = state, [first, last] = network.lods;
  element('title').textContent = document.title = network.title;
  for (const name of network.classes) element('class').add(new Option(name));
  for (const format of network.formats) element('format').add(new Option(format.toUpperCase(), format));
  element('class-label').hidden = element('save-labels').hidden = !network.classes.length;
  element('lod-label').hidden = first >= last;
  Object.assign(element('lod'), {min: first, max: last, value: first});
  for (const [id, action] of Object.entries(actions)) element(id).onclick = trying(action);
  for (const id of ['psi', 'lod', 'reach']) element(id).oninput = () => show();
  element('class').onchange = () => show();
  element('seed').onchange = trying(() => showSeed(element('seed').value));
  element('time').oninput = () => { stop(); showBetween(+element('time').value); };
  document.onkeydown = onKey;
  setUpPad();
}

trying(async () => {
  state.network = await askJson('GET', '/api/network');
  setUp();
  const {kept, revision} = await askJson('GET', '/api/kept');
  state.revision = revision;
  await showSeed(0);
  for (const one of kept) { state.kept.push(one); addKept(state.kept.length - 1); }
  element('count').textContent = kept.length || '';
  element('empty').hidden = kept.length > 1;
  element('film').hidden = kept.length < 2;
  element('save-all').disabled = !kept.length;
})();
