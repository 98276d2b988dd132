// What all canvases need: sharp pixels at any width, and the place of the pointer.
function prepare(canvas, height) {
  const width = canvas.clientWidth || canvas.parentElement.clientWidth, scale = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  const pixels = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, sans-serif";
  return { context, width, height };
}

function pointer(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

// Paints columns x rows cells into a rectangle; shade(column, row) gives [red, green, blue].
function paintCells(context, columns, rows, shade, box) {
  const image = new ImageData(columns, rows);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at += 4) {
      const rgb = shade(column, row);
      image.data[at] = rgb[0]; image.data[at + 1] = rgb[1]; image.data[at + 2] = rgb[2]; image.data[at + 3] = 255;
    }
  }
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  small.getContext("2d").putImageData(image, 0, 0);
  // Enlarged cells have edges; several cells in one pixel are averaged.
  context.imageSmoothingEnabled = box.width < columns || box.height < rows;
  context.drawImage(small, box.x, box.y, box.width, box.height);
}

// A few round numbers from low to high.
function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw));
  const unit = power * [1, 2, 5, 10].find((factor) => factor * power >= raw), list = [];
  for (let value = Math.ceil(low / unit) * unit; value <= high + unit * 1e-6; value += unit) list.push(Math.abs(value) < unit * 1e-6 ? 0 : Number(value.toPrecision(6)));
  return list;
}
