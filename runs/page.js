'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const MARGIN = {left: 52, right: 10, top: 18, bottom: 38}, HEIGHT = 260;
const MARKED_POINTS = 40;       // Curves with at most this many values get a dot for each.

// Numbers.

function formatNumber(value) {
  if (value === null || value === undefined) return '-';
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2);
  return String(+value.toFixed(size >= 1000 ? 1 : size >= 10 ? 2 : 4));
}

function formatTime(seconds) {
  const total = Math.round(seconds), two = number => String(number).padStart(2, '0');
  const [d, h, m, s] = [total / 86400, total / 3600 % 24, total / 60 % 60, total % 60].map(Math.floor);
  return d ? `${d}d ${h}h ${two(m)}m` : h ? `${h}h ${two(m)}m ${two(s)}s` : m ? `${m}m ${two(s)}s` : `${s}s`;
}

function roundSteps(low, high, count) {         // Round numbers between low and high.
  const raw = (high - low) / count, unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find(factor => unit * factor >= raw * 0.999);
  const steps = [];
  for (let k = Math.ceil(low / step - 1e-9); k <= high / step + 1e-9; k++) steps.push(+(k * step).toPrecision(12));
  return steps;
}

function roundLogSteps(low, high) {
  const factors = high / low > 200 ? [1] : [1, 2, 5], steps = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    for (const factor of factors) steps.push(+(factor * 10 ** e).toPrecision(12));
  return steps.filter(step => step >= low && step <= high);
}

function valueRange(values, log) {
  const sorted = values.filter(value => value !== null && (!log || value > 0)).sort((a, b) => a - b);
  if (!sorted.length) return null;
  let low = sorted[0], high = sorted[sorted.length - 1], cut = false;
  if (log) return low === high ? [low / 1.5, high * 1.5, false] : [low / 1.1, high * 1.1, false];
  // A few spikes must not flatten the curve.
  const at = share => sorted[Math.round(share * (sorted.length - 1))], middle = at(0.98) - at(0.02);
  if (sorted.length > MARKED_POINTS && middle > 0 && high - low > 6 * middle) {
    low = Math.max(low, at(0.02) - middle);
    high = Math.min(high, at(0.98) + middle);
    cut = true;
  }
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - pad, high + pad, cut];
}

// Charts.

function add(parent, name, attributes, text) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function addHtml(parent, name, className, text) {
  const element = document.createElement(name);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function colour(index) { return `var(--c${index % 8})`; }

function addKey(parent, name, text, index) {
  const entry = addHtml(parent, name, '');
  addHtml(entry, 'i', '').style.background = colour(index);
  entry.append(text);
}

function drawChart(figure, chart) {
  for (const old of figure.querySelectorAll('.key, svg, .tip, p')) old.remove();
  const table = data.tables[chart.table], kimg = table.kimg;
  const columns = chart.series.map(name => table[name]);
  const range = valueRange(columns.flat(), chart.log);
  if (!range) { addHtml(figure, 'p', '', 'No values.'); return; }
  const [low, high, cut] = range, log = chart.log && high / low > 5;
  const [begin, end] = kimgRange(kimg);
  const width = Math.max(figure.clientWidth - 24, 200), right = width - MARGIN.right, bottom = HEIGHT - MARGIN.bottom;
  const scale = value => log ? Math.log(value) : value;
  const x = value => MARGIN.left + (value - begin) / (end - begin) * (right - MARGIN.left);
  const y = value => bottom - (scale(value) - scale(low)) / (scale(high) - scale(low)) * (bottom - MARGIN.top);

  const key = addHtml(figure, 'div', 'key'), legend = addHtml(key, 'div', 'legend');
  chart.series.forEach((name, index) => addKey(legend, 'span', name, index));
  addHtml(key, 'small', 'axis', (log ? 'logarithmic axis' : 'linear axis') + (cut ? ', spikes cut off' : ''));
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  figure.append(svg);
  svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', `${chart.title}, kimg ${formatNumber(begin)} to ${formatNumber(end)}`);
  drawSpans(svg, x, begin, end, bottom);
  for (const value of log ? roundLogSteps(low, high) : roundSteps(low, high, 5)) {
    add(svg, 'line', {class: 'grid', x1: MARGIN.left, x2: right, y1: y(value), y2: y(value)});
    add(svg, 'text', {x: MARGIN.left - 6, y: y(value) + 4, 'text-anchor': 'end'}, formatNumber(value));
  }
  for (const value of roundSteps(begin, end, Math.max(2, Math.min(8, width / 80))))
    if (x(value) < right - 34)
      add(svg, 'text', {x: x(value), y: bottom + 16, 'text-anchor': 'middle'}, formatNumber(value));
  add(svg, 'text', {x: right, y: bottom + 16, 'text-anchor': 'end'}, 'kimg');
  add(svg, 'text', {x: (MARGIN.left + right) / 2, y: HEIGHT - 5, 'text-anchor': 'middle'},
      'thousands of real images shown (kimg), linear axis');

  const clip = add(add(svg, 'clipPath', {id: 'clip' + figure.dataset.chart}), 'rect',
                   {x: MARGIN.left - 4, y: MARGIN.top - 4, width: right - MARGIN.left + 8,
                    height: bottom - MARGIN.top + 8});
  const curves = add(svg, 'g', {'clip-path': `url(#${clip.parentNode.id})`});
  columns.forEach((values, index) => drawCurve(curves, kimg, values, x, y, log, colour(index)));
  const best = chart.best ? kimg.indexOf(chart.best.kimg) : -1;
  if (best >= 0) markBest(curves, x(kimg[best]), table[chart.best.series][best], y, bottom);
  addHover(figure, svg, chart, table, columns, x, y, bottom, width);
}

function kimgRange(kimg) {      // The range of the whole training, so that charts line up, unless `kimg` exceeds it.
  const last = kimg[kimg.length - 1], spans = data.spans;
  if (spans.length && spans[0].begin <= kimg[0] && spans[spans.length - 1].end >= last)
    return [spans[0].begin < last ? spans[0].begin : last - 1, spans[spans.length - 1].end];
  return [kimg[0] < last ? kimg[0] : kimg[0] - 1, last];
}

function markBest(parent, x, value, y, bottom) {
  add(parent, 'line', {class: 'best', x1: x, x2: x, y1: MARGIN.top, y2: bottom});
  add(parent, 'path', {class: 'best', d: `M${x - 6} ${y(value)}a6 6 0 1 0 12 0a6 6 0 1 0 -12 0`});
}

function drawSpans(svg, x, begin, end, bottom) {        // Shade the fade in; write resolutions above the chart.
  const beginnings = {};
  for (const span of data.spans) {
    const from = Math.max(span.begin, begin), to = Math.min(span.end, end), name = span.name.split(' ')[0];
    if (from >= to) continue;
    if (span.fading)
      add(svg, 'rect', {class: 'fade', x: x(from), y: MARGIN.top, width: x(to) - x(from), height: bottom - MARGIN.top});
    if (span.begin > begin)
      add(svg, 'line', {class: 'boundary', x1: x(from), x2: x(from), y1: MARGIN.top, y2: bottom});
    if (!(name in beginnings)) beginnings[name] = from;
  }
  let room = x(end) + MARGIN.right;     // Where names would overlap, later ones take precedence.
  for (const [name, from] of Object.entries(beginnings).reverse()) {
    const width = name.length * 6.8, left = Math.min(x(from), x(end) + MARGIN.right - width);
    if (left + width > room) continue;
    add(svg, 'text', {class: 'resolution', x: left, y: MARGIN.top - 6}, name);
    room = left - 4;
  }
}

function drawCurve(parent, kimg, values, x, y, log, stroke) {
  let path = '', pen = false, count = 0;
  values.forEach((value, index) => {
    const there = value !== null && (!log || value > 0);
    if (there) {
      path += `${pen ? 'L' : 'M'}${x(kimg[index]).toFixed(1)} ${y(value).toFixed(1)}${pen ? '' : 'h0'}`;
      count++;
    }
    pen = there;
  });
  add(parent, 'path', {class: 'curve', d: path, style: `stroke:${stroke}`});
  if (count <= MARKED_POINTS)
    values.forEach((value, index) => {
      if (value !== null && (!log || value > 0))
        add(parent, 'circle', {cx: x(kimg[index]), cy: y(value), r: 2.5, style: `fill:${stroke}`});
    });
}

function addHover(figure, svg, chart, table, columns, x, y, bottom, width) {
  const cursor = add(svg, 'line', {class: 'cursor', y1: MARGIN.top, y2: bottom}), tip = addHtml(figure, 'div', 'tip');
  const hide = () => { cursor.style.visibility = tip.style.visibility = 'hidden'; };
  const show = event => {
    const place = event.clientX - svg.getBoundingClientRect().left;
    let nearest = 0;
    table.kimg.forEach((kimg, index) => {
      if (Math.abs(x(kimg) - place) < Math.abs(x(table.kimg[nearest]) - place)) nearest = index;
    });
    const at = x(table.kimg[nearest]);
    cursor.setAttribute('x1', at);
    cursor.setAttribute('x2', at);
    tip.replaceChildren();
    addHtml(tip, 'div', '', 'kimg ' + formatNumber(table.kimg[nearest])
            + (table.lod && table.lod[nearest] !== null ? '  lod ' + table.lod[nearest].toFixed(2) : ''));
    if (table.seconds[nearest] !== null) addHtml(tip, 'div', '', 'time ' + formatTime(table.seconds[nearest]));
    columns.forEach((values, index) =>
      addKey(tip, 'div', `${chart.series[index]} ${formatNumber(values[nearest])}`, index));
    cursor.style.visibility = tip.style.visibility = 'visible';
    const left = at + 24 + tip.offsetWidth > width ? at - tip.offsetWidth : at + 24;
    tip.style.left = Math.max(left, 0) + 'px';
  };
  svg.addEventListener('pointermove', show);
  svg.addEventListener('pointerdown', show);
  svg.addEventListener('pointerleave', event => { if (event.pointerType === 'mouse') hide(); });
  document.addEventListener('pointerdown', event => { if (!svg.contains(event.target)) hide(); });
}

// Pictures.

const slider = document.getElementById('slider'), pictures = document.querySelector('.pictures');

function fitPictures() {        // Enlarge small pictures by a whole number, or to the width of the page.
  for (const image of pictures ? pictures.querySelectorAll('img') : []) {
    if (!image.naturalWidth) continue;
    const fills = pictures.classList.contains('large'), across = image.parentNode.clientWidth / image.naturalWidth;
    const room = Math.min(across, Math.max(0.85 * window.innerHeight, 300) / image.naturalHeight);
    const zoom = fills || room < 1 || across < 1.5 ? (fills ? across : room) : Math.floor(room);
    image.style.imageRendering = zoom >= 1 ? 'pixelated' : 'auto';
    image.style.width = image.naturalWidth * zoom + 'px';
  }
}

function showPicture(index) {
  const picture = data.pictures[Math.min(Math.max(index, 0), data.pictures.length - 1)];
  slider.value = data.pictures.indexOf(picture);
  document.getElementById('fakes').src = picture.src;
  document.getElementById('caption').textContent = picture.caption;
  slider.setAttribute('aria-valuetext', picture.caption);
}

function addPictureControls() {
  const step = count => showPicture(+slider.value + count), play = document.getElementById('play');
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = 'Play'; };
  slider.addEventListener('input', () => { stop(); showPicture(+slider.value); });
  document.getElementById('back').addEventListener('click', () => { stop(); step(-1); });
  document.getElementById('on').addEventListener('click', () => { stop(); step(1); });
  document.addEventListener('keydown', event => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target === slider) return;
    if (event.key === 'ArrowLeft') { stop(); step(-1); }
    if (event.key === 'ArrowRight') { stop(); step(1); }
  });
  play.addEventListener('click', () => {
    if (timer) return stop();
    if (+slider.value === data.pictures.length - 1) showPicture(0);
    play.textContent = 'Stop';
    timer = setInterval(() => {
      step(1);
      if (+slider.value === data.pictures.length - 1) stop();
    }, 300);
  });
  showPicture(data.pictures.length - 1);
}

if (pictures) {
  for (const image of pictures.querySelectorAll('img')) image.addEventListener('load', fitPictures);
  if (slider) addPictureControls();
  const size = document.getElementById('size'), toggle = () => {
    const large = pictures.classList.toggle('large');
    if (size) size.setAttribute('aria-pressed', large);
    fitPictures();
  };
  if (size) size.addEventListener('click', toggle);
  for (const image of pictures.querySelectorAll('img')) image.addEventListener('click', toggle);
}

let drawnWidth = 0;
function layOut() {
  fitPictures();
  if (drawnWidth === document.body.clientWidth) return;
  drawnWidth = document.body.clientWidth;
  for (const figure of document.querySelectorAll('.chart')) drawChart(figure, data.charts[figure.dataset.chart]);
}
window.addEventListener('resize', layOut);
layOut();
