// Images pixel by pixel: never smoothed on the screen, never lossy in a file.

/** Draws an image at its true size. */
function paint(canvas, { pixels, height, width, channels }) {
  canvas.width = width;
  canvas.height = height;
  const data = new ImageData(width, height);
  for (let spot = 0; spot < height * width; spot++) {
    for (let channel = 0; channel < 3; channel++) {
      data.data[4 * spot + channel] = pixels[spot * channels + (channels >= 3 ? channel : 0)];
    }
    data.data[4 * spot + 3] = 255;
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

/** The whole factor that enlarges an image to about `size`. */
const enlargement = ({ height, width }, size) => Math.max(1, Math.round(size / Math.max(height, width)));

// Altered pixels are outlined by default where one takes fewer pixels of the page.
const OUTLINED_BELOW = 3;
const MOST_OUTLINED = 200; // more outlines would hide the image
const isSmall = ({ height, width }) => TILE_SIZE / Math.max(height, width) < OUTLINED_BELOW;

/** Makes a canvas that shows an image enlarged by a whole factor, its altered pixels outlined on request. */
function picture(image, factor, label, isOutlined = false) {
  const canvas = paint(element("canvas", { role: "img", "aria-label": label, class: "picture" }), image);
  canvas.style.width = `${image.width * factor}px`;
  if (!isOutlined || image.spots.length > MOST_OUTLINED) return canvas;
  const scale = Math.max(factor, Math.ceil(TILE_SIZE / Math.max(image.height, image.width)));
  const small = canvas.cloneNode();
  paint(small, image);
  canvas.width = image.width * scale;
  canvas.height = image.height * scale;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  for (const [color, line] of [["#ffffff", 3], ["#d6006c", 1.5]]) {
    context.strokeStyle = color;
    context.lineWidth = line;
    for (const [row, col] of image.spots) {
      const margin = scale < 4 ? 3 : 0;
      context.strokeRect(col * scale - margin, row * scale - margin, scale + 2 * margin, scale + 2 * margin);
    }
  }
  return canvas;
}

/** Saves a canvas as PNG; that of an image alone has its true size. */
function download(canvas, name) {
  canvas.toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/png");
}
